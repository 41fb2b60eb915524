// Colours for code, line by line, so that a block can grow while it is shown. One small scanner for all languages:
// comments, strings, numbers, words of the language. It never changes the text.

import { h } from "./dom.js";

const C_WORDS = "break case catch class const continue default delete do else enum export extends finally for function goto if import in instanceof interface new null private protected public return static struct super switch this throw true false try typedef typeof union using var void volatile while let async await yield of from as namespace template typename virtual override nullptr auto bool char double float int long short signed unsigned size_t string undefined";
const FAMILIES = {
  c: { line: ["//"], block: ["/*", "*/"], quotes: `"'\``, words: C_WORDS },
  rust: { line: ["//"], block: ["/*", "*/"], quotes: `"`, words: "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return self Self static struct super trait true type unsafe use where while bool char f32 f64 i8 i16 i32 i64 i128 isize str u8 u16 u32 u64 u128 usize String Vec Option Result Some None Ok Err Box" },
  go: { line: ["//"], block: ["/*", "*/"], quotes: `"'\``, words: "break case chan const continue default defer else fallthrough for func go goto if import interface map package range return select struct switch type var true false nil string int int64 float64 bool byte error rune make append len" },
  python: { line: ["#"], long: ['"""', "'''"], quotes: `"'`, words: "and as assert async await break class continue def del elif else except False finally for from global if import in is lambda match None nonlocal not or pass raise return self True try while with yield print range len int str float list dict set tuple bool" },
  shell: { line: ["#"], quotes: `"'`, words: "if then else elif fi for while until do done case esac function in select return exit export local readonly set unset shift source echo cd sudo true false" },
  sql: { line: ["--"], block: ["/*", "*/"], quotes: `"'`, anyCase: true, words: "select from where and or not null insert into values update set delete create table index view drop alter add primary key foreign references join left right inner outer full on group by order having limit offset union all distinct as case when then else end in is like between exists with asc desc count sum avg min max int integer text varchar real default unique" },
  data: { line: ["#"], quotes: `"'`, words: "true false null yes no on off" },
  lisp: { line: [";"], quotes: `"`, words: "define lambda let if cond else def defn defun fn do nil true false" },
  haskell: { line: ["--"], quotes: `"`, words: "module import where let in case of do if then else data type newtype class instance deriving qualified as hiding True False" },
  markup: { block: ["<!--", "-->"], line: [], quotes: `"`, words: "", tags: true },
  css: { block: ["/*", "*/"], line: [], quotes: `"'`, words: "important auto none inherit initial unset var calc media import" },
};
const NAMES = {
  c: "c h cc cpp c++ hpp cs csharp java js javascript jsx ts typescript tsx kotlin kt swift scala php dart zig groovy solidity glsl cuda proto objc",
  rust: "rust rs", go: "go golang", python: "python py python3 ipython", shell: "sh bash zsh shell console fish dockerfile docker makefile make perl ruby rb r elixir julia powershell nix",
  sql: "sql sqlite mysql postgres postgresql plsql", data: "json json5 jsonc yaml yml toml ini conf properties env", lisp: "lisp scheme clojure clj racket elisp", haskell: "haskell hs elm lua",
  markup: "html xml svg vue svelte", css: "css scss less",
};
const FAMILY_OF = new Map(Object.entries(NAMES).flatMap(([family, names]) => names.split(" ").map((name) => [name, family])));
/** Longer lines are shown plain. */
const LINE_MAX = 2000;

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** Colours the lines of one block in order. */
export class Highlighter {
  #family;
  #words;
  #scanner;
  /** The end mark of a comment or string that began on an earlier line. */
  #until = null;

  constructor(language) {
    this.#family = FAMILIES[FAMILY_OF.get(language.toLowerCase())];
    if (!this.#family) return;
    const { line, block, long, quotes, tags } = this.#family;
    this.#words = new Set(this.#family.words.split(" "));
    const comments = line.map((mark) => (mark === "#" ? "(?<![^\\s;])#.*" : `${escaped(mark)}.*`));
    const opens = [block?.[0], ...(long ?? [])].filter(Boolean).map(escaped);
    const strings = [...quotes].map((quote) => `${quote}(?:\\\\.|[^\\\\${quote}])*${quote}?`);
    const parts = [
      comments.length > 0 ? `(?<comment>${comments.join("|")})` : null,
      opens.length > 0 ? `(?<open>${opens.join("|")})` : null,
      `(?<string>${strings.join("|")})`,
      tags ? "(?<tag></?[A-Za-z][\\w:-]*|/?>)" : null,
      "(?<number>\\b(?:0[xX][\\da-fA-F_]+|0b[01_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\w*)",
      "(?<call>[A-Za-z_]\\w*(?=!?\\())|(?<word>[A-Za-z_]\\w*)",
    ];
    this.#scanner = new RegExp(parts.filter(Boolean).join("|"), "g");
  }

  /** The nodes of the next line. */
  line(text) {
    if (!this.#family || text.length > LINE_MAX) return [document.createTextNode(text)];
    const nodes = [];
    const push = (kind, part) => part && nodes.push(kind ? h("span", { class: `c-${kind}` }, part) : document.createTextNode(part));
    let at = 0;
    while (at < text.length || at === 0) {
      if (this.#until) {
        const end = text.indexOf(this.#until.mark, at);
        const to = end < 0 ? text.length : end + this.#until.mark.length;
        push(this.#until.kind, text.slice(at, to));
        if (end >= 0) this.#until = null;
        at = to;
        if (end < 0 || at >= text.length) break;
      }
      at = this.#code(text, at, push);
      if (!this.#until) break;
    }
    return nodes;
  }

  /** The nodes of a line that is not complete: the state stays as it is. */
  peek(text) {
    const until = this.#until;
    const nodes = this.line(text);
    this.#until = until;
    return nodes;
  }

  /** Code from `at` to the line's end, or to what opens a longer comment or string. */
  #code(text, at, push) {
    this.#scanner.lastIndex = at;
    for (let found = this.#scanner.exec(text); found; found = this.#scanner.exec(text)) {
      push(null, text.slice(at, found.index));
      at = found.index + found[0].length;
      const { open } = found.groups;
      if (open) {
        const isComment = open === this.#family.block?.[0];
        push(isComment ? "comment" : "string", open);
        this.#until = { kind: isComment ? "comment" : "string", mark: isComment ? this.#family.block[1] : open };
        return at;
      }
      push(this.#kind(found.groups), found[0]);
    }
    push(null, text.slice(at));
    return text.length;
  }

  #kind({ comment, string, number, tag, call, word }) {
    if (comment) return "comment";
    if (string) return "string";
    if (number) return "number";
    if (tag) return "word";
    const name = call ?? word;
    const isWord = this.#words.has(this.#family.anyCase ? name.toLowerCase() : name);
    return isWord ? "word" : call ? "call" : null;
  }
}
