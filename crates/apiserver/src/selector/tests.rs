#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::labels::Operator;
use super::{Fields, Labels};
use crate::kind::{Family, Kind, Names, SchemaSource, Scope};

fn kind(
    family: Family,
    scope: Scope,
    selectable_fields: Vec<(&'static str, &'static str, &'static str)>,
) -> Kind {
    let names = Names::new("Thing", "things");
    let schema = SchemaSource::new("Thing", Map::new);
    Kind { family, selectable_fields, ..Kind::new("example.org", &["v1"], names, scope, schema) }
}

fn pod() -> Kind {
    kind(
        Family::BuiltIn,
        Scope::Namespaced,
        vec![
            ("spec.nodeName", "/spec/nodeName", ""),
            ("status.phase", "/status/phase", ""),
            ("spec.hostNetwork", "/spec/hostNetwork", "false"),
            ("status.successful", "/status/succeeded", "0"),
        ],
    )
}

fn matches(selector: &str, labels: &Value) -> bool {
    let selector = Labels::parse(selector).unwrap();
    let object = json!({"kind": "Thing", "metadata": {"name": "a", "labels": labels}, "spec": [1]});
    assert_eq!(selector.matches_json(object.to_string().as_bytes()), selector.matches(&object));
    selector.matches(&object)
}

#[test]
fn labels_match_as_in_kubernetes() {
    let labels = json!({"a": "1", "b": "", "kubevirt.io/size": "small", "in": "notin"});
    let matching = [
        "",
        " ",
        "a",
        "a=1",
        "a==1",
        "a = 1",
        "a!=2",
        "c!=2",
        "a in (1,2)",
        "a in(1)",
        "a notin (2)",
        "c notin (2)",
        "!c",
        "b=",
        "b",
        "b in ()",
        "b in (,)",
        "b in (x,)",
        "b in (,x)",
        "b in (x,,y)",
        "kubevirt.io/size=small",
        "a=1,b",
        "a>0",
        "a<2",
        "in=notin",
        "in in (in,notin)",
        "!c,a\t\r\n=1",
        "a!=",
    ];
    for selector in matching {
        assert!(matches(selector, &labels), "{selector}");
    }
    let others = [
        "c",
        "a=2",
        "a!=1",
        "a in (2,3)",
        "a notin (1)",
        "!a",
        "a=1,c",
        "a>1",
        "a<1",
        "b>0",
        "c>0",
        "c<0",
        "c=",
        "a in ()",
        "kubevirt.io/size>1",
    ];
    for selector in others {
        assert!(!matches(selector, &labels), "{selector}");
    }
    assert!(!Labels::parse("a").unwrap().matches(&json!({})));
    assert!(Labels::parse("!a").unwrap().matches(&json!({})));
    for object in ["{}", r#"{"metadata":null}"#, r#"{"metadata":{"labels":null}}"#] {
        assert!(Labels::parse("!a").unwrap().matches_json(object.as_bytes()), "{object}");
    }
    assert!(!Labels::parse("!a").unwrap().matches_json(b"{"));
    assert!(Labels::parse("").unwrap().is_empty());
    assert!(!Labels::parse("a").unwrap().is_empty());
}

#[test]
fn what_is_no_selector_is_told_in_kubernetes_words() {
    let cases = [
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("a=b,", "found '', expected: identifier after ','"),
        (",a", "found ',', expected: !, identifier, or 'end of string'"),
        ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("!!a", "unable to parse requirement: found '!', expected: identifier"),
        ("!a=b", "found '=', expected: ',' or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
        ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
        ("a in (b,=)", "unable to parse requirement: found '=', expected: ',', or identifier"),
        ("a==(b)", "unable to parse requirement: found '(', expected: identifier"),
        (
            "a>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be \
                 an integer",
        ),
        (
            "a>",
            "unable to parse requirement: values[0]: Invalid value: \"\": for 'Gt', 'Lt' operators, the value must be \
                an integer",
        ),
        ("a>=1", "unable to parse requirement: found '=', expected: identifier"),
    ];
    for (selector, message) in cases {
        let error = Labels::parse(selector).unwrap_err();
        assert_eq!(
            (error.code, error.reason, error.message.as_str()),
            (400, "BadRequest", message),
            "{selector}"
        );
    }
}

#[test]
fn names_and_values_of_labels_are_checked() {
    let key = Labels::parse("a/b/c=d").unwrap_err();
    let start = "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": ";
    assert!(key.message.starts_with(start), "{key}");
    let value = Labels::parse("a=-b").unwrap_err();
    let start = "unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label must be";
    assert!(value.message.starts_with(start), "{value}");
}

#[test]
fn a_selector_object_means_what_its_text_means() {
    let selector = json!({
        "matchLabels": {"b": "1"},
        "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["2", "1"]},
            {"key": "c", "operator": "NotIn", "values": ["x"]},
            {"key": "d", "operator": "Exists"},
            {"key": "e", "operator": "DoesNotExist", "values": []},
        ],
    });
    let read = Labels::from_object(&selector).unwrap();
    assert_eq!(read.to_string(), "a in (1,2),b=1,c notin (x),d,!e");
    assert_eq!(read, Labels::parse(&read.to_string()).unwrap());
    assert!(Labels::from_object(&json!({})).unwrap().is_empty());
    let nothing = Labels::from_object(&Value::Null).unwrap();
    assert!(!nothing.is_empty() && !nothing.matches(&json!({})));
    let unknown =
        Labels::from_object(&json!({"matchExpressions": [{"key": "a", "operator": "Like"}]})).unwrap_err();
    assert_eq!(unknown.message, "\"Like\" is not a valid label selector operator");
    assert!(Labels::from_object(&json!({"matchLabels": {"a": 1}})).is_err());
    assert!(Labels::from_object(&json!({"matchExpressions": [{"key": "a", "operator": "In"}]})).is_err());
    assert!(Labels::from_object(&json!({"matchExpressions": ["a", 1, null]})).is_err());
}

#[test]
fn fields_match_as_in_kubernetes() {
    let object = json!({
        "metadata": {"name": "a", "namespace": "n"},
        "spec": {"nodeName": "x,y=z\\", "hostNetwork": true},
        "status": {"phase": "Running", "succeeded": 2},
    });
    let matching = [
        "",
        ",",
        "metadata.name=a",
        "metadata.name==a",
        "metadata.name!=b",
        "metadata.namespace=n",
        "status.phase=Running",
        "spec.nodeName=x\\,y\\=z\\\\",
        "metadata.name=a,status.phase!=Pending,",
        "spec.hostNetwork=true",
        "status.successful=2",
    ];
    for selector in matching {
        assert!(Fields::parse(selector, &pod()).unwrap().matches(&object), "{selector}");
    }
    for selector in
        ["metadata.name=b", "metadata.name!=a", "spec.nodeName=", "metadata.name=a,status.phase=Pending"]
    {
        assert!(!Fields::parse(selector, &pod()).unwrap().matches(&object), "{selector}");
    }
    for selector in ["spec.nodeName=", "spec.hostNetwork=false", "status.successful=0", "metadata.name="] {
        assert!(Fields::parse(selector, &pod()).unwrap().matches(&json!({"spec": null})), "{selector}");
    }
    assert!(Fields::parse("", &pod()).unwrap().is_empty());
}

#[test]
fn a_selector_of_one_name_says_so() {
    let read = |selector| Fields::parse(selector, &pod()).unwrap();
    assert_eq!(read("metadata.name=a,metadata.namespace=n").exact_name(), Some("a"));
    assert_eq!(read("metadata.name=a,metadata.namespace=n").exact_namespace(), Some("n"));
    assert_eq!(read("metadata.name!=a,status.phase=b").exact_name(), None);
    assert_eq!(read("metadata.name!=a,metadata.name=b").exact_name(), Some("b"));
}

#[test]
fn fields_that_cannot_be_selected_by_are_refused() {
    let custom = kind(Family::Custom, Scope::Namespaced, Vec::new());
    let custom_cluster = kind(Family::Custom, Scope::Cluster, Vec::new());
    let plain = kind(Family::BuiltIn, Scope::Namespaced, Vec::new());
    let pod = pod();
    let cases = [
        ("spec.x=1", &pod, "field label not supported: spec.x"),
        ("spec.x=1", &custom, "field label not supported: spec.x"),
        ("metadata.namespace=n", &custom_cluster, "field label not supported: metadata.namespace"),
        (
            "spec.x=1",
            &plain,
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        ("a", &pod, "invalid selector: 'a'; can't understand 'a'"),
        ("metadata.name=a,b!c", &pod, "invalid selector: 'metadata.name=a,b!c'; can't understand 'b!c'"),
        ("metadata.name=a\\b", &pod, "invalid field selector: invalid escape sequence: \\b"),
        ("metadata.name=a\\", &pod, "invalid field selector: invalid escape sequence: \\"),
        ("metadata.name=a=b", &pod, "invalid field selector: unescaped character in value: 61"),
        ("metadata.name===b", &pod, "invalid field selector: unescaped character in value: 61"),
    ];
    for (selector, kind, message) in cases {
        let error = Fields::parse(selector, kind).unwrap_err();
        assert_eq!(
            (error.code, error.reason, error.message.as_str()),
            (400, "BadRequest", message),
            "{selector}"
        );
    }
}

fn any_requirement() -> impl Strategy<Value = String> {
    let value = "([a-z0-9]([a-z0-9._-]{0,3}[a-z0-9])?)?";
    let key = "([a-z]{1,3}\\.io/)?[a-z][a-z0-9]{0,4}";
    prop_oneof![
        (key, value).prop_map(|(key, value)| format!("{key}={value}")),
        (key, value).prop_map(|(key, value)| format!("{key}!={value}")),
        (key, prop::collection::vec(value, 1..4))
            .prop_map(|(key, values)| format!("{key} in ({})", values.join(","))),
        (key, prop::collection::vec(value, 1..4))
            .prop_map(|(key, values)| format!("{key} notin ({})", values.join(","))),
        key.prop_map(|key| key),
        key.prop_map(|key| format!("!{key}")),
        (key, any::<i32>().prop_filter("a label's value", |number| *number >= 0))
            .prop_map(|(key, number)| format!("{key}>{number}")),
        (key, 0..9).prop_map(|(key, number)| format!("{key}<{number}")),
    ]
}

proptest! {
    #[test]
    fn labels_are_written_as_they_are_read(requirements in prop::collection::vec(any_requirement(), 0..4)) {
        let read = Labels::parse(&requirements.join(",")).unwrap();
        prop_assert_eq!(read.requirements.len(), requirements.len());
        prop_assert_eq!(&Labels::parse(&read.to_string()).unwrap(), &read);
    }

    #[test]
    fn a_requirement_and_its_opposite_share_no_object(key in "[a-c]", value in "[ab]", labels in prop::collection::hash_map("[a-c]", "[ab]", 0..3)) {
        let labels = json!(labels);
        for (one, other) in [("K=V", "K!=V"), ("K in (V)", "K notin (V)"), ("K", "!K")] {
            let fill = |form: &str| form.replace('K', &key).replace('V', &value);
            prop_assert_ne!(matches(&fill(one), &labels), matches(&fill(other), &labels));
        }
    }

    #[test]
    fn fields_are_written_as_they_are_read(name in "\\PC{0,12}", equal in any::<bool>()) {
        let escaped = name.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
        let text = format!("metadata.name{}{escaped}", if equal { "=" } else { "!=" });
        let read = Fields::parse(&text, &pod()).unwrap();
        prop_assert_eq!(read.exact_name(), equal.then_some(name.as_str()));
        prop_assert_eq!(read.matches(&json!({"metadata": {"name": name}})), equal);
        prop_assert_eq!(&Fields::parse(&read.to_string(), &pod()).unwrap(), &read);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[a-c=!<>(), \\\\\\t\\x00é]{0,16}|(in|notin|[a,()!= ]){0,8}|\\PC{0,12}") {
        if let Ok(read) = Labels::parse(&text) {
            let _ = read.matches(&json!({"metadata": {"labels": {"a": "b"}}}));
            prop_assert!(read.requirements.iter().all(|term| term.operator != Operator::Exists || term.values.is_empty()));
        }
        if let Ok(read) = Fields::parse(&text, &pod()) {
            let _ = read.matches(&json!({}));
        }
    }
}
