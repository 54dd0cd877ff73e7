"""Filters of texts: each takes a cleaned text and returns None to keep it, or the reason to drop it."""

from __future__ import annotations

import re
from collections.abc import Callable

from ccmb.core.errors import CcmbError
from ccmb.core.text.files import text_lines
from ccmb.corpus.base.recipe import FIELDS, FieldName, TextRecipe

TextFilter = Callable[[str], str | None]

_HAN_RUN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]+")
_RUN = re.compile(r"[^\W_]+")
_LETTERS = re.compile(r"[^\W\d_]+")


def characters(text: str, min_count: int, max_count: int) -> str | None:
    """Filter by the length in characters, with blanks and punctuation."""
    return "too few characters" if len(text) < min_count else "too many characters" if len(text) > max_count else None


def words(text: str, min_count: int, max_count: int) -> str | None:
    """Filter by the length in words. Each Han character is a word; so is each run of other letters and digits, as BERT
    splits them."""
    count = _length(_HAN_RUN, text) + len(_RUN.findall(_HAN_RUN.sub(" ", text)))
    return "too few words" if count < min_count else "too many words" if count > max_count else None


def han_share(text: str, min_share: float) -> str | None:
    """Filter by the share of Han among words, as `words` counts them; numbers belong to no language."""
    han = _length(_HAN_RUN, text)
    others = len(_LETTERS.findall(_HAN_RUN.sub(" ", text)))
    return "not Chinese" if not han or han < min_share * (han + others) else None


def _length(runs: re.Pattern[str], text: str) -> int:
    """How many characters of the text belong to runs of a pattern."""
    return len(text) - len(runs.sub("", text))


# Signs of bytes that were lost: UTF-8 with gaps read as GBK, fresh memory read as GBK, control and private characters.
_BROKEN = re.compile("锟斤|烫烫烫|屯屯屯|锘縷|[\ufffd\u0080-\u009f\ue000-\uf8ff]")
_LATIN = re.compile("[\u00c2-\u00f4]")
# Browsers read the bytes that cp1252 leaves free as control characters, as Latin-1 does.
_CP1252 = {ord(bytes([byte]).decode("cp1252", "ignore") or chr(byte)): byte for byte in range(0x80, 0xA0)}


def mojibake(text: str) -> str | None:
    """Filter texts that were read in another encoding than they were written in.

    Call it before the text is cleaned, while the original bytes can still be recovered.
    """
    if _BROKEN.search(text):
        return "mojibake"
    if _LATIN.search(text) and _is_han_in_utf8(text.translate(_CP1252), "latin-1"):
        return "mojibake"
    return "mojibake" if not text.isascii() and _is_han_in_utf8(text, "gb18030") else None


def _is_han_in_utf8(text: str, encoding: str) -> bool:
    """Whether the text, encoded in `encoding`, is UTF-8 with two Han characters or more; the last may be cut."""
    try:
        written = text.encode(encoding)
    except UnicodeEncodeError:
        return False
    try:
        read = written.decode()
    except UnicodeDecodeError as error:
        if error.start < len(written) - 3:
            return False
        read = written[: error.start].decode()
    return _length(_HAN_RUN, read) >= 2


# Our choice: phrases about the page, the file or its rights, which do not describe what the image shows.
_PHRASES = re.compile(
    # The look-ahead, at what the phrases begin with, makes the search several times faster.
    "(?=[点查图页正数加暂内版未转请立免登注上下返网首联扫识关分责Ii共第无])(?:点击(?:这里|此处)?(?:查看|浏览|放大|进入|下载|加载)(?:大图|原图|更多|全文|详情|图片)?|查看(?:大图|原图|更多|全文|详情)"
    "|(?:图片|页面|正在|数据)?加载(?:中|失败)|暂无(?:图片|标题|描述|内容|数据)|(?:图片|页面|内容)(?:不存在|已删除|已失效)"
    "|版权(?:所有|归原作者)|未经(?:授权|许可|允许)[^\uff0c。]{0,8}(?:转载|使用)|转载请注明(?:出处|来源)?|图片来(?:源|自)于?(?:网络)?"
    "|(?:请|立即|免费)?(?:登录|注册)(?:后(?:查看|下载))?|(?:上|下)一(?:张|页|篇)|返回(?:首页|顶部|列表)|(?:网站)?首页|联系我们"
    "|(?:扫描|扫一扫|识别)(?:下方)?二维码|关注(?:我们的)?(?:微信)?公众号|分享到(?:微信|朋友圈|微博)?|责任编辑"
    "|(?:ICP|icp)备[\\d案号 \\-]*|共 ?\\d+ ?(?:张|页|条)(?:图片)?|第 ?\\d+ ?(?:张|页)|无标题(?:文档)?|未命名)"
)
_FILE_NAME = re.compile(
    r"\S*\.(?:jpe?g|png|gif|bmp|webp|tiff?|html?|php|aspx?)"
    r"|(?:img|dsc[nf]?|pic|image|photo|mmexport|screenshot)[_\- ]?\d+"
    r"|(?:微信(?:图片|截图)|qq(?:图片|截图)|屏幕截图|未标题)[_\- ]?[\d_\- ]*",
    re.IGNORECASE,
)


def boilerplate(text: str) -> str | None:
    """Filter names of files, and texts of which more than half are phrases that stand on any page."""
    if _FILE_NAME.fullmatch(text):
        return "name of a file"
    remaining = _PHRASES.sub("", text)
    return "boilerplate" if remaining != text and 2 * _length(_RUN, remaining) < _length(_RUN, text) else None


_URL = re.compile(
    r"https?:|www\.|[a-z0-9\-]{2,}\.(?:com|cn|net|org|cc|top|xyz|vip|shop|info|co|tv|me|site|club)\b",
    re.IGNORECASE | re.ASCII,
)
_EMAIL = re.compile(r"[\w.+\-]+ ?(?:@|\(at\)) ?[\w\-]+\.[a-z]{2,}", re.IGNORECASE | re.ASCII)
_MOBILE = re.compile(r"(?<!\d)(?:\+?86[ \-]?)?1[3-9]\d[ \-]?\d{4}[ \-]?\d{4}(?!\d)")
_LANDLINE = re.compile(r"(?<!\d)(?:\(?0\d{2,3}\)?[ \-]?[2-9]\d{6,7}|[48]00[ \-]\d{3}[ \-]?\d{4}|[48]00\d{7})(?!\d)")
_LATIN_OR_DIGIT = re.compile("[0-9A-Za-z]")
_CHAT = re.compile(
    r"(?:微信号?|威信|薇信|加v|vx|wx|wechat|qq|扣扣|企鹅)(?:群|号)?[:\uff1a号是 ]{0,3}[a-z0-9][a-z0-9_\-]{4,}",
    re.IGNORECASE,
)


def urls(text: str) -> str | None:
    return "URL" if _URL.search(text) else None


def emails(text: str) -> str | None:
    return "e-mail address" if _EMAIL.search(text) else None


def phones(text: str) -> str | None:
    """Filter mobile and landline numbers as they are written in China."""
    return "phone number" if _MOBILE.search(text) or _LANDLINE.search(text) else None


def chat_accounts(text: str) -> str | None:
    return "chat account" if _CHAT.search(text) else None


def contacts(text: str) -> str | None:
    """Apply the four filters above. None of them matches a text without a Latin letter or a digit."""
    if not _LATIN_OR_DIGIT.search(text):
        return None
    return reason_against(text, [emails, urls, phones, chat_accounts])


class SensitiveWords:
    """Drops texts that contain one of the words, in any case. Its speed does not depend on how many words there are."""

    def __init__(self, listed: list[str]) -> None:
        self._words = {word.lower() for word in listed}
        self._lengths = sorted({len(word) for word in self._words})

    def __call__(self, text: str) -> str | None:
        text = text.lower()
        has_word = any(text[at : at + n] in self._words for n in self._lengths for at in range(len(text) - n + 1))
        return "sensitive word" if has_word else None


def read_words(path: str) -> list[str]:
    """The words of a text file, one in each line. Blank lines and lines that begin with # are ignored.

    Raises:
        CcmbError: the file cannot be read, is no text, or has no word; the message names it.
    """
    listed = [line.strip() for line in text_lines(path) if line.strip() and not line.startswith("#")]
    if not listed:
        raise CcmbError(f"{path}: has no word")
    return listed


def filters_of(recipe: TextRecipe) -> dict[FieldName, list[TextFilter]]:
    """The filters of each field, in the order in which they are applied to a cleaned text.

    Raises:
        CcmbError: the file of sensitive words cannot be read.
    """
    common: list[TextFilter] = []
    common.append(lambda text: han_share(text, recipe.min_han_share))
    if recipe.drop_boilerplate:
        common.append(boilerplate)
    if recipe.drop_contacts:
        common.append(contacts)
    if recipe.sensitive_words is not None:
        common.append(SensitiveWords(read_words(recipe.sensitive_words)))

    def lengths(field: FieldName) -> list[TextFilter]:
        limits = recipe.lengths[field]
        return [lambda text: characters(text, *limits.characters), lambda text: words(text, *limits.words)]

    return {field: [*lengths(field), *common] for field in FIELDS}


def reason_against(text: str, filters: list[TextFilter]) -> str | None:
    """The reason of the first filter that drops the text; None if all keep it."""
    return next((reason for text_filter in filters if (reason := text_filter(text)) is not None), None)
