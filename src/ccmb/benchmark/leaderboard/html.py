"""The leaderboard as one self-contained HTML file, with sorting and with filters by set, origin and setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ccmb.benchmark.family import View
from ccmb.benchmark.leaderboard.columns import NOTHING, VIEWS
from ccmb.benchmark.leaderboard.depth_curves import depth_section
from ccmb.benchmark.leaderboard.markdown import MARKS, MARKS_SAID_EN, MARKS_SAID_ZH, metric, note_numbers
from ccmb.benchmark.leaderboard.published import published
from ccmb.benchmark.leaderboard.rows import Difference, Row
from ccmb.report.document import document
from ccmb.report.markup import both, escape, paragraph, section, signed

ORIGINS = {"ours": ("本次测得", "measured here"), "published": ("已发表", "published")}
SETTINGS = {
    "zero-shot": ("零样本", "zero-shot"),
    "fine-tuned": ("微调", "fine-tuned"),
    "unstated": ("未说明", "unstated"),
}
KINDS_OF_NOTE = {
    "trap": ("比较的陷阱", "trap when comparing"),
    "unverified": ("未核实", "unverified"),
    "conflict": ("来源冲突", "sources conflict"),
    "setup": ("设置", "set-up"),
}
# Titles of the columns; those of metrics sort as numbers.
WORDS = {
    "model": ("模型", "Model"),
    "set": ("数据集", "Set"),
    "setting": ("设定", "Setting"),
    "variant": ("版本", "Variant"),
    "stage": ("阶段", "Stage"),
}


def render_leaderboard(rows: Sequence[Row]) -> str:
    """The whole page."""
    own_rows = sum(row.origin == "ours" for row in rows)
    title = f"<h1>{both('中文图文排行榜', 'Chinese image-text leaderboard')}</h1>"
    lead = paragraph(
        f"{own_rows} 行由 <code>ccmb benchmark</code> 测得，{len(rows) - own_rows} 行抄自论文与仓库。"
        "单位为百分比；点击表头排序。",
        f"{own_rows} rows were measured with <code>ccmb benchmark</code>, {len(rows) - own_rows} are as papers and "
        "repositories print them. In percent; click a heading to sort.",
        "lead",
    )
    numbers = note_numbers(rows)
    folder = Path(__file__).parent
    style, script = ((folder / f"leaderboard.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return document(
        "CCMB leaderboard",
        [
            f"<style>\n{style}</style>",
            f"<header>{title}{lead}</header>",
            _filters(rows),
            *(_part(view, [row for row in rows if row.family == family], numbers) for family, view in VIEWS.items()),
            paragraph(escape(MARKS_SAID_ZH), escape(MARKS_SAID_EN), "note"),
            depth_section(rows),
            _notes(numbers),
            f"<script>\n{script}</script>",
        ],
    )


def _filters(rows: Sequence[Row]) -> str:
    sets = {row.set: row.set_title for row in rows}
    families: dict[str, str] = {family: " · ".join(view.title) for family, view in VIEWS.items()}
    choices = {
        "family": (("任务", "Task"), families),
        "set": (("数据集", "Set"), sets),
        "origin": (("来历", "Kind of row"), {key: " · ".join(label) for key, label in ORIGINS.items()}),
        "setting": (("设定", "Setting"), {key: " · ".join(label) for key, label in SETTINGS.items()}),
    }
    parts = []
    for name, (label, options) in choices.items():
        options_html = '<option value="">全部 · all</option>'
        options_html += "".join(
            f'<option value="{escape(key)}">{escape(text)}</option>' for key, text in options.items()
        )
        parts.append(f'<label>{both(*label)} <select name="{name}" autocomplete="off">{options_html}</select></label>')
    shown = both("行", "rows")
    return f'<div class="filters">{"".join(parts)}<span><b id="shown">{len(rows)}</b> {shown}</span></div>'


def _part(view: View, rows: Sequence[Row], numbers: Mapping[str, int]) -> str:
    """The table of a family under its heading, or a note that it has no rows yet."""
    body = _table(view, rows, numbers) if rows else paragraph(NOTHING.zh, NOTHING.en, "note")
    return section(view.title.zh, view.title.en, body)


def _table(view: View, rows: Sequence[Row], numbers: Mapping[str, int]) -> str:
    heads = [_head(both(*label)) for label in WORDS.values()]
    heads += [_head(both(*map(escape, words)), "n") for words in (*view.columns.values(), view.main_words)]
    heads += [_head(both("标记", "Mark")), _head(both("出处", "Source"))]
    body = "".join(_line(row, numbers) for row in rows)
    return (
        f'<div class="scroll"><table class="board"><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def _head(label: str, kind: str = "") -> str:
    return f'<th scope="col" class="{kind}"><button type="button">{label}</button></th>'


def _line(row: Row, numbers: Mapping[str, int]) -> str:
    notes = "".join(
        f'<sup><a href="#note-{number}">{number}</a></sup>' for number in sorted(numbers[note] for note in row.notes)
    )
    kind = f' <span class="muted">{escape(row.kind)}</span>' if row.kind else ""
    origin = f'<span class="origin">{both(*ORIGINS[row.origin])}</span>'
    seen = f' <span class="seen">⚠ {escape(row.seen)}</span>' if row.seen else ""
    cells = [f'<th scope="row" data-value="{escape(row.model)}">{escape(row.model)}{notes}{kind}{origin}{seen}</th>']
    cells += [
        _cell(row.set_title, escape(row.set_title)),
        _cell(row.setting, both(*SETTINGS[row.setting])),
        _cell(row.variant, escape(row.variant)),
        _cell(row.stage, escape(row.stage) or "–"),
    ]
    cells += [_metric_cell(row.metrics.get(key)) for key in VIEWS[row.family].columns]
    bounds = "" if row.interval is None else f" [{row.interval[0]:.1f}, {row.interval[1]:.1f}]"
    cells.append(_metric_cell(row.main, f'<span class="muted">{bounds}</span>' if bounds else ""))
    source = "; ".join(row.sources)
    gap = f' <span class="muted">{_gap(row.difference)}</span>' if row.difference else ""
    cells += [_cell(MARKS[row.mark], MARKS[row.mark] + gap), _cell(source, escape(source), "wide")]
    data = f'data-family="{row.family}" data-set="{escape(row.set)}" data-origin="{row.origin}"'
    data += f' data-setting="{row.setting}"'
    return f'<tr class="{row.origin}" {data}>{"".join(cells)}</tr>\n'


def _cell(value: str, shown: str, kind: str = "") -> str:
    return f'<td class="{kind}" data-value="{escape(value)}">{shown}</td>'


def _metric_cell(value: float | None, more: str = "") -> str:
    return _cell("" if value is None else f"{value}", metric(value).replace("-", "–") + more, "n")


def _gap(difference: Difference) -> str:
    return f"{signed(difference.mean)} [{signed(difference.low)}, {signed(difference.high)}]"


def _notes(numbers: Mapping[str, int]) -> str:
    items = ""
    for key, number in numbers.items():
        note = published().notes[key]
        label = both(*KINDS_OF_NOTE[note.mark])
        items += f'<li id="note-{number}"><b>{label}</b> {both(escape(note.zh), escape(note.en))}</li>'
    return section("已发表各行的注记", "Notes on published rows", f'<ol class="notes">{items}</ol>') if items else ""
