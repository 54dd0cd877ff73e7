"""The cards of the data sets: what each set is, where it comes from, and what is not known about it.

None stands for unknown values. Facts that rest on memory or inference are listed as unverified.
"""

from __future__ import annotations

from ccmb.core.errors import UsageError, did_you_mean
from ccmb.datasets.card import RECALL, SHARES_PHOTOS, Card, CardSplit, EnZh, Family, Making
from ccmb.datasets.multilingual_cards import MULTILINGUAL

__all__ = ["CARDS", "Card", "CardSplit", "EnZh", "Family", "Making", "find_card"]

_AUC = EnZh("AUC", "AUC")
_TRAIN_VAL = (CardSplit("train"), CardSplit("val"))
_THREE = (CardSplit("train"), CardSplit("val"), CardSplit("test"))
_ZERO = "zero.so.com, github.com/yuxie11/R2D2"
_PACK = EnZh(
    "the JSON lines, and the image pack IQR_IQM_ICR_ICM_images that the four sets share",
    "JSON lines 文件，以及四个数据集共用的图片包 IQR_IQM_ICR_ICM_images",
)
_PACK_FORM = EnZh(
    "the pack ships as base64 packages whose form is not known: id and base64 in .tsv files is our reading",
    "图片包以 base64 形式发布，具体格式不详：按 .tsv 中的编号加 base64 读取是我们的理解",
)
_FLICKR_IMAGES = EnZh("the caption files, and the images of Flickr30k", "描述文件，以及 Flickr30k 的图片")
_CAPTION_FILES = (
    "*{split}*caption*.txt + images/",
    "*caption*.txt + *{split}.txt + images/",
    "{split}_texts.jsonl + {split}_imgs.tsv",
)


def _zero(
    name: str,
    title: str,
    *,
    family: Family,
    stem: str,
    total: EnZh,
    made: Making | None = None,
    notes: tuple[EnZh, ...] = (),
) -> Card:
    """One of the four sets of the paper that share a pack."""
    metric = _AUC if family == "matching" else RECALL
    files = (f"{{split}}/{stem}_{{split}}.json + IQR_IQM_ICR_ICM_images/",)
    return Card(
        name,
        title,
        families=(family,),
        splits=_TRAIN_VAL,
        metric=metric,
        files=files,
        download=_PACK,
        total=total,
        made=made,
        source=_ZERO,
        notes=notes,
        unverified=(_PACK_FORM,),
    )


_NO_TEST = EnZh("no test split is published: the official code tests on val", "未发布测试集：官方代码在 val 上测试")
_PAIRS = EnZh("400,000 pairs, half of them matching", "40 万对，匹配与不匹配各半")
_MISSING_IMAGE = EnZh(
    "missing images: an ICR training record is known to name one that is not in the pack",
    "缺图：已知 ICR 训练集有一条记录所指的图片不在图片包中",
)

_ALL = (
    Card(
        "flickr30k-cn",
        "Flickr30k-CN",
        families=("retrieval",),
        splits=(CardSplit("train"), CardSplit("val"), CardSplit("test", 1000)),
        metric=RECALL,
        files=_CAPTION_FILES,
        download=_FLICKR_IMAGES,
        made="several",
        source="github.com/li-xirong/cross-lingual-cap",
        notes=(SHARES_PHOTOS,),
        unverified=(
            EnZh(
                "texts of train and val are machine translation, those of test human translation",
                "train、val 的文本为机器翻译，test 为人工翻译",
            ),
        ),
    ),
    Card(
        "coco-cn",
        "COCO-CN",
        families=("retrieval",),
        splits=(CardSplit("train"), CardSplit("val"), CardSplit("test", 1000, 1053)),
        metric=RECALL,
        files=_CAPTION_FILES,
        download=EnZh(
            "the caption files and split lists, and the images of MS-COCO", "描述文件和划分列表，以及 MS-COCO 的图片"
        ),
        made="several",
        licence=EnZh("MIT, by its authors", "MIT（由作者发布）"),
        source="github.com/li-xirong/coco-cn, huggingface.co/datasets/AIMClab-RUC/COCO-CN",
        notes=(
            EnZh(
                "there are written, translated and machine-translated captions; of several files the written ones "
                "are read. A translated test of 1,000 images and 5,000 texts is not comparable with the written one",
                "有人工撰写、人工翻译和机器翻译三种描述；有多个文件时读取人工撰写的。"
                "另有 1,000 图 5,000 句的翻译版测试集，与人工撰写的不可比较",
            ),
        ),
    ),
    Card(
        "aic-icc",
        "AIC-ICC",
        families=("retrieval", "captioning"),
        splits=_THREE,
        metric=RECALL,
        files=("caption_{split}_annotations_*.json + caption_{split}_images_*/",),
        download=EnZh("annotations and images of each split", "各划分的标注和图片"),
        unverified=(
            EnZh(
                "that it is one of the twelve, and the captioning set among them",
                "它是十二个数据集之一，且是其中的图像描述集",
            ),
            EnZh(
                "the name of the image folder, and CIDEr as the metric of captioning",
                "图片文件夹的名称，以及以 CIDEr 为图像描述的指标",
            ),
        ),
    ),
    Card(
        "muge",
        "MUGE",
        families=("retrieval",),
        splits=_THREE,
        metric=EnZh("mean of R@1, R@5, R@10, text to image", "文到图 R@1、R@5、R@10 的均值"),
        files=("{split}_texts.jsonl + {split}_imgs.tsv", "MR_{split}_queries.jsonl + MR_{split}_imgs.tsv"),
        download=EnZh("queries and image packs of each split", "各划分的查询和图片包"),
        made="search queries",
        source="tianchi.aliyun.com/dataset/107332",
        notes=(EnZh("results are published for val", "已发表的结果在 val 上测得"),),
        unverified=(
            EnZh("that the texts are search queries: the name of the files says so", "文本为搜索查询：依据文件名推断"),
        ),
    ),
    Card(
        "flickr30k-cna",
        "Flickr30k-CNA",
        families=("retrieval",),
        splits=(CardSplit("train"), CardSplit("val"), CardSplit("test", 1000, 5000)),
        metric=RECALL,
        files=("{split}/flickr30k_cna_{split}.txt + flickr30k-images/",),
        download=_FLICKR_IMAGES,
        total=EnZh("all of Flickr30k", "Flickr30k 全部"),
        made="translated",
        source=_ZERO,
        notes=(SHARES_PHOTOS,),
        unverified=(EnZh("31,783 images with 5 texts each over all splits", "全部划分共 31,783 张图片，每张 5 句"),),
    ),
    _zero(
        "icr",
        "ICR",
        family="retrieval",
        stem="long_itr",
        total=EnZh("200,000 pairs", "20 万对"),
        notes=(_NO_TEST, _MISSING_IMAGE),
    ),
    _zero(
        "iqr",
        "IQR",
        family="retrieval",
        stem="short_itr",
        total=EnZh("200,000 pairs", "20 万对"),
        made="search queries",
        notes=(_NO_TEST,),
    ),
    _zero("icm", "ICM", family="matching", stem="long_itm", total=_PAIRS),
    _zero("iqm", "IQM", family="matching", stem="short_itm", total=_PAIRS, made="search queries"),
    Card(
        "ecommerce-t2i",
        "ECommerce-T2I",
        families=("generation",),
        splits=(CardSplit("train", 90_000, 90_000), CardSplit("val", 5_000, 5_000), CardSplit("test", texts=5_000)),
        metric=EnZh("FID; IS and R-precision beside it", "FID；另有 IS 与 R-precision"),
        source="Alibaba DAMO Academy, https://github.com/MUGE-2021/image-generation-baseline",
        files=(
            "T2I_{split}.text.tsv + T2I_{split}.img.tsv",
            "T2I_{split}.txt.tsv + T2I_{split}.img.tsv",
        ),
        download=EnZh("texts and image packs", "文本和图片包"),
        notes=(
            EnZh(
                "the test split has texts alone; docs/generation.md tells how to make the file to hand in",
                "测试集只有文本；提交文件的生成见 docs/generation.md",
            ),
        ),
        unverified=(EnZh("that it is one of the twelve", "它是十二个数据集之一"),),
    ),
    Card(
        "imagenet",
        "ImageNet-1k (Chinese labels)",
        families=("classification",),
        splits=(CardSplit("train"), CardSplit("val")),
        metric=EnZh("top-1 accuracy, zero-shot", "零样本 top-1 准确率"),
        files=("{split}/CLASS/*.JPEG + classes.txt + templates.txt",),
        download=EnZh(
            "the images of ImageNet-1k in folders of classes; names and templates in Chinese",
            "ImageNet-1k 图片（一类一个文件夹）；中文类名和模板",
        ),
        total=EnZh("1,000 classes", "1,000 类"),
        unverified=(
            EnZh(
                "names and form of the class-name and template files are our choice: the paper's were never released",
                "类名和模板文件的名称与格式由我们选定：论文的从未发布",
            ),
        ),
    ),
    Card(
        "flickr8k-cn",
        "Flickr8k-CN",
        families=("retrieval",),
        splits=(
            CardSplit("train", 6000, 30000),
            CardSplit("val", 1000, 5000),
            CardSplit("extra", 91),
            CardSplit("test", 1000),
        ),
        metric=RECALL,
        files=("captions.jsonl + images.tar", "pairs.jsonl + images/"),
        download=EnZh("captions and images in one folder", "描述和图片，放在同一文件夹"),
        total=EnZh("8,091 images; not one of the paper's twelve", "8,091 张图片；不在论文的十二个之列"),
        made="written",
        licence=EnZh("research use only", "仅供研究"),
        source="github.com/li-xirong/flickr8kcn",
        notes=(
            EnZh(
                "machine translations (mt_baidu) are a field of their own, not among the queries",
                "机器翻译（mt_baidu）为单独字段，不计入查询",
            ),
            SHARES_PHOTOS,
        ),
    ),
)

CARDS: dict[str, Card] = {card.name: card for card in (*_ALL, *MULTILINGUAL)}


def find_card(name: str) -> Card:
    """The card of a data set, by its name in any case.

    Raises:
        UsageError: there is no such card; the message lists the names.
    """
    card = CARDS.get(name.lower())
    if card is None:
        known = list(CARDS)
        raise UsageError(
            f"no data set '{name}'{did_you_mean(name.lower(), known)}; the data sets are: {', '.join(known)}"
        )
    return card
