#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(text: &str) -> Decoded {
    json(text.as_bytes()).unwrap()
}

fn refused(text: &[u8]) -> String {
    json(text).unwrap_err().to_string()
}

/// `{"a":{"a":…}}` or `[[…]]` inside an object, with `levels` levels.
fn nested(levels: usize, open: &str, close: &str) -> String {
    format!("{{\"x\":{}1{}}}", open.repeat(levels - 1), close.repeat(levels - 1))
}

/// On the smallest stack that a worker thread has.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn json_is_read_in_order_with_its_numbers() {
    let decoded = read(r#"{"b":1,"a":-9223372036854775808,"c":18446744073709551615,"d":1.5,"e":2.0}"#);
    assert_eq!(
        decoded.value.to_string(),
        r#"{"b":1,"a":-9223372036854775808,"c":18446744073709551615,"d":1.5,"e":2}"#
    );
    assert_eq!(decoded.duplicates, Vec::<String>::new());
    assert_eq!(read(r#"{"a":18446744073709551616}"#).value, json!({"a": 18446744073709551616.0}));
    assert!(refused(br#"{"a":1e400}"#).contains("number out of range"));
}

#[test]
fn keys_that_occur_twice_are_named_with_their_path() {
    let text = r#"{"spec":{"foo":1,"foo":2,"list":[{},{"x":1,"y":0,"x":3,"x":4}]},"a.b":{"c":1},"spec2":{"m":{"k":1,"k":2}}}"#;
    let decoded = read(text);
    assert_eq!(decoded.duplicates, ["spec.foo", "spec.list[1].x", "spec2.m.k"]);
    assert_eq!(decoded.value["spec"], json!({"foo": 2, "list": [{}, {"x": 4, "y": 0}]}));
}

#[test]
fn what_is_not_one_json_object_is_refused() {
    for (text, expected) in [
        (&b""[..], "EOF while parsing a value at line 1 column 0"),
        (b"{", "EOF while parsing an object at line 1 column 1"),
        (b"{} x", "trailing characters at line 1 column 4"),
        (b"{}{}", "trailing characters at line 1 column 3"),
        (b"{\"a\":NaN}", "expected value at line 1 column 6"),
        (b"[]", "json: cannot unmarshal array into Go value of type map[string]interface {}"),
        (b"\"x\"", "json: cannot unmarshal string into Go value of type map[string]interface {}"),
        (b"null", "json: cannot unmarshal null into Go value of type map[string]interface {}"),
        (b"7", "json: cannot unmarshal number into Go value of type map[string]interface {}"),
        (b"true", "json: cannot unmarshal bool into Go value of type map[string]interface {}"),
    ] {
        assert_eq!(refused(text), expected);
    }
    assert!(refused(b"{\"a\":\"\xff\"}").contains("invalid unicode code point"));
    assert!(json(b"\xef\xbb\xbf{}").is_err());
    assert_eq!(json_value(b"[1]").unwrap().value, json!([1]));
    let error = ApiError::from(json(b"{}x").unwrap_err());
    assert_eq!(error.code, 400);
    assert_eq!(
        error.message,
        "couldn't get version/kind; json parse error: trailing characters at line 1 column 3"
    );
}

#[test]
fn depth_is_bounded_and_a_bomb_does_not_overflow() {
    on_a_small_stack(|| {
        for (open, close) in [("{\"a\":", "}"), ("[", "]")] {
            assert!(json(nested(MAX_DEPTH, open, close).as_bytes()).is_ok());
            let error = refused(nested(MAX_DEPTH + 1, open, close).as_bytes());
            assert!(error.contains("exceeded max depth of 100"), "{error}");
            for levels in [129, 10_000, 1_000_000] {
                let error = refused(nested(levels, open, close).as_bytes());
                assert!(error.contains("exceeded max depth"), "{error}");
            }
            assert!(json(open.repeat(100_000).as_bytes()).is_err());
        }
    });
}

#[test]
fn what_is_taken_can_be_read_again_in_an_envelope() {
    let decoded = read(&nested(MAX_DEPTH, "[", "]"));
    let event =
        json!({"type": "ADDED", "object": {"items": [{"metadata": {"managedFields": [decoded.value]}}]}});
    assert!(serde_json::from_str::<Value>(&event.to_string()).is_ok());
}

#[test]
fn yaml_is_read_as_kubernetes_reads_it() {
    let text = "a: 1\nb: 0644\nc: yes\nd: 'yes'\ne: 1.5\nf: ~\ng:\n- x: 2020-01-02\n-\n1: one\ntrue: t\nh: &h {k: v}\ni: *h\nj: 0x1f\nk: |\n  two\n  lines\nl: 12e2\nm: {<<: *h, z: 1}\n";
    assert_eq!(
        yaml(text.as_bytes()).unwrap().value,
        json!({
            "a": 1, "b": 420, "c": true, "d": "yes", "e": 1.5, "f": null, "g": [{"x": "2020-01-02"}, null],
            "1": "one", "true": "t", "h": {"k": "v"}, "i": {"k": "v"}, "j": 31, "k": "two\nlines\n", "l": 1200,
            "m": {"k": "v", "z": 1},
        })
    );
    let twice = yaml(b"spec:\n  a: 1\n  b: 2\n  a: 3\n").unwrap();
    assert_eq!(twice.duplicates, ["spec.a"]);
    assert_eq!(twice.value, json!({"spec": {"a": 3, "b": 2}}));
    assert_eq!(yaml(br#"{a: 1, "b": [x, {"y": 2}]}"#).unwrap().value, json!({"a": 1, "b": ["x", {"y": 2}]}));
    assert_eq!(yaml(br#" {"a": [1, {"b": "c"}]}"#).unwrap().value, json!({"a": [1, {"b": "c"}]}));
    assert_eq!(yaml(b"---\na: 1\n...\n").unwrap().value, json!({"a": 1}));
}

#[test]
fn yaml_that_is_not_one_finite_object_is_refused() {
    for text in [
        &b"a: .nan"[..],
        b"a: -.inf",
        b"a: 1\n---\nb: 2\n",
        b"- 1",
        b"",
        b"~",
        b"a",
        b"a: \xff",
        b"a: [",
        b"a: *x",
        b"? {a: 1}\n: 2",
        b"a: &a [*a]",
    ] {
        let error = yaml(text);
        assert!(error.is_err(), "{} is {error:?}", String::from_utf8_lossy(text));
    }
}

#[test]
fn yaml_bombs_are_refused_early() {
    on_a_small_stack(|| {
        let mut laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..30 {
            let before = level - 1;
            laughs.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 9].join(",")));
        }
        assert!(yaml(laughs.as_bytes()).is_err());
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 4000].join(","));
        assert!(yaml(long.as_bytes()).is_err());
        for levels in [MAX_DEPTH + 1, 10_000] {
            let error = yaml(nested(levels, "[", "]").as_bytes());
            assert!(error.is_err());
            assert!(yaml("- ".repeat(levels).as_bytes()).is_err());
            assert!(yaml("? ".repeat(levels).as_bytes()).is_err());
        }
        assert!(yaml(nested(MAX_DEPTH, "[", "]").as_bytes()).is_ok());
    });
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = json(&bytes);
        let _ = yaml(&bytes);
    }

    #[test]
    fn any_text_like_yaml_or_json_is_read_or_refused(text in r#"[\[\]{}:,"'\-?&*!|>%@`~#<. \n0-9a-eE_+\\u]{0,120}"#) {
        let _ = json(text.as_bytes());
        let _ = yaml(text.as_bytes());
    }

    #[test]
    fn json_reads_what_serde_json_reads(text in r#"\{("[a-c]":([1-9][0-9]{0,2}|true|null|"x"|\[\]|\{"a":1\}),){0,4}"z":0\}"#) {
        let expected: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(json(text.as_bytes()).unwrap().value, expected);
    }
}
