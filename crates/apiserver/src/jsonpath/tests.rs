#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Path, text};

fn object() -> Value {
    json!({
        "metadata": {"name": "a", "labels": {"kubevirt.io/size": "small"}, "annotations": {"it's": "x"}},
        "status": {
            "ready": true, "replicas": 3, "load": 1.5, "gone": null,
            "conditions": [
                {"type": "Ready", "status": "True", "weight": 1},
                {"type": "Paused", "status": "False", "weight": 2, "reason": "Asked"},
                "stray",
            ],
            "interfaces": [{"ipAddress": "10.0.0.1"}, {"name": "b"}, {"ipAddress": "10.0.0.2"}],
        },
    })
}

fn results(path: &str) -> Vec<Value> {
    Path::parse(path).unwrap().walk(&object(), 0).into_iter().cloned().collect()
}

#[test]
fn a_path_leads_to_the_values_that_kubectl_prints() {
    let cases: &[(&str, Value)] = &[
        (".metadata.name", json!(["a"])),
        ("{.metadata.name}", json!(["a"])),
        ("$.metadata.name", json!(["a"])),
        (".metadata.labels.kubevirt\\.io/size", json!(["small"])),
        (".metadata.labels['kubevirt.io/size']", json!(["small"])),
        (".metadata['labels']['kubevirt.io/size']", json!(["small"])),
        (".metadata.annotations['it\\'s']", json!(["x"])),
        (".status.missing.deeper", json!([])),
        (".status.interfaces[0].ipAddress", json!(["10.0.0.1"])),
        (".status.interfaces[-1].ipAddress", json!(["10.0.0.2"])),
        (".status.interfaces[9].ipAddress", json!([])),
        (".status.interfaces[-9].ipAddress", json!([])),
        (".status.interfaces[1:].ipAddress", json!(["10.0.0.2"])),
        (".status.interfaces[:-2].ipAddress", json!(["10.0.0.1"])),
        (".status.interfaces[2:1]", json!([])),
        (".status.interfaces[*].ipAddress", json!(["10.0.0.1", "10.0.0.2"])),
        (".metadata.labels.*", json!(["small"])),
        (".status.conditions[?(@.type=='Ready')].status", json!(["True"])),
        (".status.conditions[?(@.type == \"Ready\")].status", json!(["True"])),
        (".status.conditions[?(@.type!='Ready')].status", json!(["False"])),
        (".status.conditions[?(@.weight>1)].type", json!(["Paused"])),
        (".status.conditions[?(@.weight>=1.0)].type", json!(["Ready", "Paused"])),
        (".status.conditions[?(@.weight<2)].type", json!(["Ready"])),
        (".status.conditions[?(@.weight<='2')].type", json!([])),
        (".status.conditions[?(@.reason)].type", json!(["Paused"])),
        (".status.conditions[?(true==true)].type", json!(["Ready", "Paused"])),
        (".status.conditions[?(false<true)].type", json!([])),
        (".status.replicas", json!([3])),
    ];
    for (path, expected) in cases {
        assert_eq!(Value::Array(results(path)), *expected, "{path}");
        let parsed = Path::parse(path).unwrap();
        assert_eq!(parsed.first(&object()), expected.get(0), "{path}");
    }
}

#[test]
fn what_is_not_known_is_refused_where_it_stands() {
    for path in [
        "..name",
        ".a[",
        ".a[]",
        ".a[x]",
        ".a['x",
        ".a[?(@.b]",
        ".a[?(1)]",
        ".a[?(@.b==)]",
        ".a..b",
        "a.b",
        ".a\\",
        ".a[1-2]",
        ".a b",
        ".a.",
        ".a]",
    ] {
        assert!(Path::parse(path).is_err(), "{path}");
    }
    assert_eq!(
        Path::parse(".a[x]").unwrap_err().to_string(),
        "an index, a name in quotes, '*' or a filter is missing at 3 of \".a[x]\""
    );
    let deep = format!("{}@.a{}", ".a[?(@".repeat(1000), ")]".repeat(1000));
    assert!(Path::parse(&deep).is_err());
}

#[test]
fn values_print_as_kubectl_prints_them() {
    let value = object();
    let shown = |path: &str| text(&Path::parse(path).unwrap().walk(&value, 0));
    assert_eq!(shown(".status.interfaces[*].ipAddress").unwrap(), "10.0.0.1 10.0.0.2");
    assert_eq!(shown(".status.ready").unwrap(), "true");
    assert_eq!(shown(".status.load").unwrap(), "1.5");
    assert_eq!(shown(".status.interfaces[0]").unwrap(), r#"{"ipAddress":"10.0.0.1"}"#);
    assert_eq!(shown(".status.gone"), None);
    assert_eq!(shown(".status.missing"), None);
}

#[test]
fn what_a_path_finds_is_bounded() {
    let row = Value::Array(vec![json!(1); 200]);
    let table = Value::Array(vec![row; 200]);
    assert_eq!(Path::parse("[*][*]").unwrap().walk(&table, 0).len(), 10_000);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(path in "[.\\[\\]*?@()'\"a-c0-2=<>!:\\\\$ {}é-]{0,30}") {
        if let Ok(path) = Path::parse(&path) {
            let value = json!({"a": [{"b": 1, "c": {"a": [1, 2]}}, 2, "x"], "b": {"c": [[1], [2]]}});
            prop_assert_eq!(path.first(&value), path.walk(&value, 0).first().copied());
        }
    }

    #[test]
    fn a_quoted_name_finds_its_field(name in "[^'\\\\]{0,20}") {
        let value = json!({ "a": { &name: 1 } });
        let path = Path::parse(&format!(".a['{name}']"));
        prop_assert_eq!(path.unwrap().first(&value), Some(&json!(1)));
    }
}
