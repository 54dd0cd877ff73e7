// Every word of the page, in both languages.
const WORDS = {
  skip: ["跳到结果", "Skip to the results"],
  home: ["首页", "Home"],
  language: ["语言", "Language"],
  text: ["要找什么", "What to look for"],
  hint: ["用中文描述要找的图片，或拖入一张图片", "Describe an image in Chinese, or drop one here"],
  pick: ["以图搜图", "Search by an image"],
  search: ["搜索", "Search"],
  stages: ["排序阶段", "Stage that orders"],
  first: ["粗排", "Pre-ranking"],
  second: ["精排", "Ranking"],
  firstTip: ["按双塔的余弦排序", "Ordered by the cosine of the two towers"],
  secondTip: ["靠前的再由交叉编码器重排", "The best are ordered anew by the cross encoders"],
  onlyFirst: ["只有图片时没有精排：它比较的是文字和图片", "An image alone is not ranked: ranking compares texts with images"],
  noRanking: ["这个模型没有交叉编码器", "This model has no cross encoders"],
  filters: ["筛选", "Filters"],
  results: ["结果", "Results"],
  more: ["更多结果", "More results"],
  keys: ["按键：/ 搜索 · 方向键选择 · Enter 放大 · M 找相似 · 1 2 切换阶段 · Esc 返回", "Keys: / search · arrows move · Enter opens · M more like this · 1 2 stages · Esc back"],
  api: ["接口说明", "API description"],
  drop: ["松手，以这张图搜索", "Drop to search by this image"],
  detail: ["图片详情", "Picture"],
  pictures: ["{n} 张图片", "{n} images"],
  noIndex: ["没有索引", "no index"],
  noIndexMore: ["这台服务器没有图片索引，只提供接口。用 ccmb serve INDEX 启动即可搜索。", "This server has no index of images, only its API. Start it as ccmb serve INDEX to search."],
  welcome: ["找一张图片", "Find an image"],
  welcomeMore: ["输入一句中文；拖入、粘贴或选择一张图片；两者也可以一起用。", "Type Chinese text; drop, paste or choose an image; or use both together."],
  welcomeStages: ["粗排用双塔的余弦从全部图片里挑出候选，精排再让交叉编码器逐一核对文字和图片。切换两个阶段，就能看到精排改变了什么。", "Pre-ranking picks candidates from all images by the cosine of two towers; ranking lets cross encoders check text against image, one by one. Switch between the two stages to see what ranking changes."],
  empty: ["索引里还没有图片", "The index holds no images yet"],
  none: ["没有匹配的图片", "No match"],
  noneMore: ["没有图片符合所有条件。", "No image meets all the conditions."],
  noneLikely: ["没有图片的匹配概率达到 {p}。", "No image is as likely a match as {p}."],
  loosen: ["去掉筛选条件", "Remove the filters"],
  failed: ["没有成功", "That did not work"],
  retry: ["再试一次", "Try again"],
  offline: ["连接不到服务器。", "The server cannot be reached."],
  needsKey: ["需要密钥", "A key is needed"],
  needsKeyMore: ["这台服务器只回答持有密钥的人。密钥只保存在这个标签页里。", "This server answers those who have a key. It is kept in this tab alone."],
  key: ["密钥", "Key"],
  enter: ["进入", "Enter"],
  found: ["{candidates} 个候选", "{candidates} candidates"],
  ranked: ["精排 {ranked} 个", "{ranked} ranked"],
  partial: ["时间用完，未全部精排", "out of time, not all ranked"],
  unknown: ["模型不认识其中大部分的词，次序意义不大", "the model knows few words of this: the order means little"],
  encode: ["编码", "encode"],
  pre_ranking: ["粗排", "pre-ranking"],
  ranking: ["精排", "ranking"],
  cosine: ["余弦", "Cosine"],
  match: ["匹配", "Match"],
  matchScore: ["匹配分", "Match score"],
  probability: ["匹配概率", "Probability"],
  score: ["得分", "Score"],
  place: ["第 {n} 名", "Place {n}"],
  placeFirst: ["粗排名次", "Place by pre-ranking"],
  placeNow: ["现在名次", "Place now"],
  up: ["精排后上升 {n} 位", "{n} up by ranking"],
  down: ["精排后下降 {n} 位", "{n} down by ranking"],
  same: ["名次不变", "Not moved by ranking"],
  like: ["找相似", "More like this"],
  likeThis: ["与此相似", "Like this one"],
  yourPicture: ["你的图片", "Your image"],
  remove: ["去掉", "Remove"],
  gone: ["图片已不在", "The image is gone"],
  copies: ["另有 {n} 张近似图片", "{n} near duplicates"],
  close: ["关闭", "Close"],
  previous: ["上一张", "Previous"],
  next: ["下一张", "Next"],
  apply: ["应用", "Apply"],
  clear: ["清除", "Clear"],
  least: ["最低匹配概率", "Least probability of a match"],
  collapse: ["合并近似图片", "Show near duplicates as one"],
  any: ["不限", "any"],
  yes: ["是", "yes"],
  no: ["否", "no"],
  from: ["从", "from"],
  to: ["到", "to"],
  unreadable: ["这个文件不是能读的图片。", "This file is no image that can be read."],
  folder: ["文件夹", "Folder"],
  date: ["日期", "Date"],
  width: ["宽（像素）", "Width (px)"],
  height: ["高（像素）", "Height (px)"],
  bytes: ["文件大小（字节）", "File size (bytes)"],
};

const stored = (() => { try { return localStorage.getItem("language"); } catch { return null; } })();
let chosen = ["zh", "en"].includes(stored) ? stored : /^zh/i.test(navigator.language) ? "zh" : "en";

export const language = () => chosen;

/** The words of a key, with {names} filled in; a key that has none is shown as it is, such as a field of the user's own. */
export function words(key, values = {}) {
  const both = WORDS[key];
  const text = both ? both[chosen === "zh" ? 0 : 1] : key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Put the page into a language. */
export function speak(language) {
  chosen = language;
  try { localStorage.setItem("language", language); } catch { /* a private window */ }
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const of of document.querySelectorAll("[data-t]")) of.textContent = words(of.dataset.t);
  for (const of of document.querySelectorAll("[data-label]")) of.setAttribute("aria-label", words(of.dataset.label));
  for (const of of document.querySelectorAll("[data-hint]")) of.placeholder = words(of.dataset.hint);
  for (const of of document.querySelectorAll("[data-tip]")) of.title = words(of.dataset.tip);
  for (const name of ["zh", "en"]) document.getElementById(name).setAttribute("aria-pressed", name === language);
}

export const number = (value) => value.toLocaleString(chosen === "zh" ? "zh-CN" : "en");
export const percent = (value) => `${(100 * value).toFixed(value > 0.995 && value < 1 ? 1 : 0)}%`;
