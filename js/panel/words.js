// The panel's words in the page's language, from languages/LANGUAGE.json; what a table lacks stays
// English. In its keys # stands for a number and * for a name in quotes, in its phrases {1}, {2} ...
// for these in their order. scripts/make_locales.py writes the tables.

const SLOT = /"[^"]*"|(?<=^|[\s(])-?\d+(?:\.\d+)?(?=$|[\s,):])/g;
let table = {};

/** Read the table of a language such as "zh"; where there is none, all stays English. */
export async function speak(language) {
  table = {};
  if (!language || language === "en") return;
  const answer = await fetch(new URL(`./languages/${language}.json`, import.meta.url));
  if (answer.ok) table = await answer.json();
}

function phrase(text) {
  const given = [];
  const key = text.replace(SLOT, (found) => {
    given.push(found);
    return found.startsWith('"') ? "*" : "#";
  });
  return table[key]?.replace(/\{(\d)\}/g, (_, place) => given[place - 1]) ?? text;
}

/** Lines of phrases that " · " parts. */
export const say = (text) =>
  text.split("\n").map((line) => line.split(" · ").map(phrase).join(" · ")).join("\n");
