//! `-o jsonpath=TEMPLATE` as kubectl has it: text with paths in braces, `{range PATH}…{end}` and quoted text.

use apiserver::jsonpath::{self, Path};
use serde_json::Value;

/// How deep ranges may nest.
const MAX_DEPTH: usize = 8;

/// A template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Path(Path),
    Range(Path, Vec<Part>),
}

impl Template {
    /// Reads a template. One without braces is a path (`.status.phase`), as with `kubectl wait`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Template, String> {
        if !text.contains('{') {
            return Ok(Template(vec![Part::Path(path(text)?)]));
        }
        let mut rest = text;
        let parts = parts(&mut rest, 0)?;
        Ok(Template(parts))
    }

    /// What it makes of an object. What the object does not have is left out.
    pub fn text(&self, object: &Value) -> String {
        let mut out = String::new();
        put(&self.0, object, &mut out);
        out
    }
}

fn put(parts: &[Part], object: &Value, out: &mut String) {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            // A path that leads nowhere is no text.
            Part::Path(path) => out.push_str(&jsonpath::text(&path.all(object)).unwrap_or_default()),
            Part::Range(path, inner) => {
                for item in path.all(object) {
                    // A range over a list goes over its items.
                    match item {
                        Value::Array(items) => items.iter().for_each(|item| put(inner, item, out)),
                        item => put(inner, item, out),
                    }
                }
            }
        }
    }
}

fn path(text: &str) -> Result<Path, String> {
    let text = text.trim();
    let rooted = match text.starts_with(['.', '[', '$', '@']) {
        true => text.to_owned(),
        false => format!(".{text}"),
    };
    Path::parse(&rooted).map_err(|error| error.to_string())
}

/// Reads until the text ends, or the range that this is the inside of.
fn parts(rest: &mut &str, depth: usize) -> Result<Vec<Part>, String> {
    let mut found = Vec::new();
    while let Some(open) = rest.find('{') {
        let (before, after) = rest.split_at(open);
        if !before.is_empty() {
            found.push(Part::Text(before.to_owned()));
        }
        let close = closing(&after[1..]).ok_or_else(|| format!("a brace is not closed: `{after}`"))?;
        let inside = after[1..=close].trim();
        *rest = &after[close + 2..];
        if inside == "end" {
            return if depth > 0 { Ok(found) } else { Err("`{end}` without a `{range}`".to_owned()) };
        }
        if let Some(of) = inside.strip_prefix("range ") {
            if depth == MAX_DEPTH {
                return Err("ranges nest too deep".to_owned());
            }
            let of = path(of)?;
            found.push(Part::Range(of, parts(rest, depth + 1)?));
        } else if inside.starts_with(['"', '\'']) {
            found.push(Part::Text(quoted(inside)?));
        } else {
            found.push(Part::Path(path(inside)?));
        }
    }
    if depth > 0 {
        return Err("`{range}` without an `{end}`".to_owned());
    }
    if !rest.is_empty() {
        found.push(Part::Text((*rest).to_owned()));
        *rest = "";
    }
    Ok(found)
}

/// Where the brace is that closes; those in quotes do not.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, character) in text.char_indices() {
        match (character, quote) {
            _ if is_escaped => is_escaped = false,
            ('\\', _) => is_escaped = true,
            (character, Some(open)) if character == open => quote = None,
            ('"' | '\'', None) => quote = Some(character),
            ('}', None) => return Some(at),
            _ => {}
        }
    }
    None
}

fn quoted(text: &str) -> Result<String, String> {
    let fault = || format!("`{text}` is no quoted text");
    let mut characters = text.chars();
    let quote = characters.next().ok_or_else(fault)?;
    let mut out = String::new();
    loop {
        match characters.next().ok_or_else(fault)? {
            '\\' => out.push(match characters.next().ok_or_else(fault)? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            }),
            end if end == quote => {
                return if characters.as_str().is_empty() { Ok(out) } else { Err(fault()) };
            }
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_are_kubectls() {
        let list = json!({"items": [
            {"metadata": {"name": "a", "labels": {"x.y/z": "1"}}, "status": {"ready": true, "list": [1, 2]}},
            {"metadata": {"name": "b"}},
        ]});
        for (template, expected) in [
            ("{.items[*].metadata.name}", "a b"),
            (".items[0].metadata.name", "a"),
            ("items[0].metadata.name", "a"),
            ("{.items[0].metadata.labels.x\\.y/z}", "1"),
            ("{range .items[*]}{.metadata.name}={.status.ready}{\"\\n\"}{end}", "a=true\nb=\n"),
            ("{range .items}[{.metadata.name}]{end}.", "[a][b]."),
            ("{range .items[*]}{range .status.list}<{@}>{end};{end}", "<1><2>;;"),
            ("{.items[?(@.metadata.name==\"b\")].metadata.name}", "b"),
            ("{.items[0].status}", r#"{"ready":true,"list":[1,2]}"#),
            ("a {'{}'} b{.nothing}", "a {} b"),
            ("plain {\"\\t\"}text", "plain \ttext"),
        ] {
            assert_eq!(Template::parse(template).unwrap().text(&list), expected, "{template}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (template, message) in [
            ("{.a", "a brace is not closed: `{.a`"),
            ("{end}", "`{end}` without a `{range}`"),
            ("{range .a}", "`{range}` without an `{end}`"),
            ("{\"a}", "a brace is not closed: `{\"a}`"),
            ("{'a'b}", "`'a'b` is no quoted text"),
            ("{..a}", "recursive descent is not supported at 1 of \"..a\""),
        ] {
            assert_eq!(Template::parse(template).unwrap_err(), message, "{template}");
        }
        assert_eq!(Template::parse(&"{range .a}".repeat(100)).unwrap_err(), "ranges nest too deep");
    }
}
