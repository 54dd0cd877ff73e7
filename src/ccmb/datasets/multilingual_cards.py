"""The cards of sets with texts in many languages."""

from __future__ import annotations

from ccmb.datasets.card import RECALL, SHARES_PHOTOS, Card, CardSplit, EnZh

_QUERIED = EnZh(
    "the queries are Chinese; --languages of evaluate and transfer measures any language",
    "查询为中文；evaluate 与 transfer 的 --languages 可评测任一语言",
)
_FLORES = EnZh(
    "languages are called as FLORES calls them, such as zho-Hans; the queries are English if eng_captions.txt is there",
    "语言采用 FLORES 的代号，如 zho-Hans；有 eng_captions.txt 时查询为英语",
)

MULTILINGUAL = (
    Card(
        "xm3600",
        "XM3600 (Crossmodal-3600)",
        families=("retrieval",),
        splits=(CardSplit("test", 3600),),
        metric=RECALL,
        files=("captions.jsonl + images/",),
        download=EnZh("captions.zip, unpacked, and the images", "captions.zip（解压）和图片"),
        total=EnZh("3,600 images, 36 languages, some two texts each", "3,600 张图片，36 种语言，每种约两条文本"),
        made="written",
        licence=EnZh("CC-BY-4.0", "CC-BY-4.0"),
        source="google.github.io/crossmodal-3600",
        notes=(_QUERIED,),
        unverified=(
            EnZh(
                "the form of captions.jsonl is that which others read: the file itself was not seen",
                "captions.jsonl 的格式取自他人的读取代码，未见原文件",
            ),
        ),
    ),
    Card(
        "xtd10",
        "XTD10",
        families=("retrieval",),
        splits=(CardSplit("test", 1000),),
        metric=RECALL,
        files=("test_image_names.txt + test_1kcaptions_LANGUAGE.txt + images/",),
        download=EnZh(
            "the repository's three folders in one, and these images of MS-COCO 2014",
            "仓库的三个文件夹放在一起，以及对应的 MS-COCO 2014 图片",
        ),
        total=EnZh("1,000 images, 11 languages, one text each", "1,000 张图片，11 种语言，每种一条文本"),
        made="written",
        licence=EnZh("Adobe research licence, not for business", "Adobe 研究许可，不得商用"),
        source="github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10",
        notes=(_QUERIED, EnZh("R@10 from text to image is the usual metric", "通常报告文搜图的 R@10")),
    ),
    Card(
        "xtd200",
        "XTD200",
        families=("retrieval",),
        splits=(CardSplit("test", 1000),),
        metric=RECALL,
        files=("test_image_names.txt + LANGUAGE.txt + images/",),
        download=EnZh(
            "the folder data/xtd200 with XTD10's test_image_names.txt, and its images",
            "data/xtd200 文件夹，加上 XTD10 的 test_image_names.txt 和图片",
        ),
        total=EnZh("1,000 images, 201 languages", "1,000 张图片，201 种语言"),
        made="machine",
        source="github.com/visheratin/nllb-clip",
        notes=(_FLORES,),
    ),
    Card(
        "flickr30k-200",
        "Flickr30k-200",
        families=("retrieval",),
        splits=(CardSplit("test", 1000),),
        metric=RECALL,
        files=("image_names.txt + LANGUAGE.txt + images/",),
        download=EnZh(
            "the folder data/flickr30k-200, a file with the names of the 1,000 test images in the order of the texts, "
            "and the images of Flickr30k",
            "data/flickr30k-200 文件夹、按文本顺序列出 1,000 张测试图片名的文件，以及 Flickr30k 的图片",
        ),
        total=EnZh("1,000 images, 201 languages", "1,000 张图片，201 种语言"),
        made="machine",
        source="github.com/visheratin/nllb-clip",
        notes=(
            _FLORES,
            EnZh(
                "the names of the images are not published with it: their order is that of Flickr30k's test split in "
                "nlphuji/flickr30k",
                "未随数据发布图片名：其顺序为 nlphuji/flickr30k 中 Flickr30k 测试集的顺序",
            ),
        ),
    ),
    Card(
        "xflickrco",
        "xFlickr&CO (IGLUE)",
        families=("retrieval",),
        splits=(CardSplit("test", 2000),),
        metric=RECALL,
        files=("LANGUAGE/{split}.jsonl + images/",),
        download=EnZh(
            "annotations, and annotations_machine-translate for the baseline, with these images of Flickr30k and "
            "MS-COCO 2014 in one folder",
            "annotations，以及作基线的 annotations_machine-translate，"
            "连同对应的 Flickr30k 与 MS-COCO 2014 图片放在同一文件夹",
        ),
        total=EnZh("2,000 images, 8 languages, one text each", "2,000 张图片，8 种语言，每种一条文本"),
        made="written",
        source="github.com/e-bug/iglue",
        notes=(
            _QUERIED,
            EnZh(
                "translations into English of a language's texts are a field such as zh>en",
                "各语言文本的英译为单独字段，如 zh>en",
            ),
        ),
    ),
    Card(
        "multi30k",
        "Multi30k",
        families=("retrieval",),
        splits=(
            CardSplit("train", 29000),
            CardSplit("val", 1014),
            CardSplit("test_2016_flickr", 1000),
            CardSplit("test_2017_flickr", 1000),
            CardSplit("test_2017_mscoco", 461),
            CardSplit("test_2018_flickr", 1071),
        ),
        metric=RECALL,
        files=("data/task1/raw/{split}.LANGUAGE.gz + data/task1/image_splits/{split}.txt + images/",),
        download=EnZh("the repository, and the images of Flickr30k", "仓库，以及 Flickr30k 的图片"),
        total=EnZh(
            "31,014 images; English, German, French, Czech, one text each; five more in English and German",
            "31,014 张图片；英、德、法、捷克语各一条文本，英语和德语另有五条",
        ),
        made="several",
        licence=EnZh("research use, not for business", "仅供研究，不得商用"),
        source="github.com/multi30k/dataset",
        notes=(
            EnZh(
                "the queries are English; de_5 and en_5 are the five independent descriptions of task 2",
                "查询为英语；de_5 与 en_5 是任务二中五条独立的描述",
            ),
            SHARES_PHOTOS,
        ),
    ),
    Card(
        "wit",
        "WIT (IGLUE)",
        families=("retrieval",),
        splits=(CardSplit("val"), CardSplit("test")),
        metric=RECALL,
        files=("{split}_LANGUAGE.jsonl + images/",),
        download=EnZh(
            "annotations, and the images, called by wit_ix or as in their URLs",
            "annotations，以及以 wit_ix 或网址中的名称命名的图片",
        ),
        total=EnZh("11 languages, Chinese not among them", "11 种语言，不含中文"),
        made="written",
        licence=EnZh("CC-BY-SA", "CC-BY-SA"),
        source="github.com/e-bug/iglue",
        notes=(EnZh("the queries are English; --languages measures any", "查询为英语；--languages 可评测任一语言"),),
    ),
)
