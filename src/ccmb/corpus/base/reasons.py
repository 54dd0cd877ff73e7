"""The words of funnels in Chinese, for cards and reports. The names in the funnel are the English words."""

from __future__ import annotations

_CHINESE = {
    # steps and units
    "impressions": "展示", "clicks": "点击", "texts": "文本", "exact duplicates": "完全重复", "pairs": "图文对",
    "pictures": "图片", "pairs with pictures": "有图片的图文对", "subset": "子集",
    "pairs of the subset": "子集的图文对",
    "not in the subset": "不在子集中",
    # clicks
    "too many impressions of a visitor": "访客展示过多", "too many clicks of a visitor": "访客点击过多",
    "seen again": "重复展示", "damaged": "记录损坏", "too few views": "展示人数太少", "too few clicks": "点击人数太少",
    "rate too low": "点击率下界太低", "not among the best of its image": "不在图片的最佳查询之列",
    "no kept query of its image": "图片没有留下的查询",
    # texts
    "too few characters": "字数太少", "too many characters": "字数太多", "too few words": "词数太少",
    "too many words": "词数太多", "not Chinese": "不是中文", "mojibake": "乱码", "name of a file": "文件名",
    "boilerplate": "网页套话", "URL": "网址", "e-mail address": "电子邮箱", "phone number": "电话号码",
    "chat account": "聊天账号", "sensitive word": "敏感词", "no text": "没有文本", "exact duplicate": "完全重复",
    "near-duplicate": "近似重复", "test text": "测试集文本", "repeated template": "重复模板",
    "too many images of the text": "文本的图片过多", "too many texts of the image": "图片的文本过多",
    "score too low": "给定分数太低", "too much of a domain": "域名占比过高",
    # images
    "exact_copy": "完全相同的图片", "near_copy": "近似重复的图片", "test_picture": "测试集图片",
    "no_text": "没有留下的文本",
    "too_small": "太小", "aspect_ratio": "长宽比过大", "too_many_pixels": "像素过多", "animated": "动图",
    "blank": "空白图",
    "undecodable": "无法解码", "not_an_image": "不是图片", "http_404": "不存在（404）", "timeout": "超时",
    "connection": "连接失败", "refused_address": "内网地址", "truncated": "传输中断", "too_large": "过大",
    "too_many_redirects": "重定向过多", "opted_out": "声明拒绝抓取", "too_slow": "太慢", "deadline": "总时限已到",
    "bad_answer": "应答有误", "bad_url": "网址有误", "dns": "没有此主机", "certificate": "证书无效",
    # pairs with images
    "no picture": "没有图片", "copy of another picture": "是另一图片的副本", "test picture": "测试集图片",
    "model score too low": "模型分数太低",
}  # fmt: skip


def in_chinese(words: str) -> str:
    """The words in Chinese. Words without a translation, such as a rare status, are returned as they are."""
    return _CHINESE.get(words, words)
