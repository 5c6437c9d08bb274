//! A JSONPath and a document, parted by the first line break.
#![no_main]

use apiserver::jsonpath::{self, Path};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| {
    let (path, document) =
        text.split_once('\n').unwrap_or((text, r#"{"a":[{"b":1},{"b":"x"}],"c":{"d":null}}"#));
    let (Ok(path), Ok(document)) = (Path::parse(path), serde_json::from_str::<Value>(document)) else {
        return;
    };
    let all = path.all(&document);
    assert_eq!(path.first(&document), all.first().copied(), "the first is the first of all");
    jsonpath::text(&all);
});
