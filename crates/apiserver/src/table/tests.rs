#![allow(clippy::unwrap_used)]

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::{IncludeObject, age, human_duration, in_version, partial, partial_list, table};
use crate::kind::{Cell, Column, Family, Kind, Names, SchemaSource, Scope};

fn kind(family: Family, columns: Vec<Column>) -> Kind {
    let names = Names::new("Thing", "things");
    let schema = SchemaSource::new("Thing", Map::new);
    Kind { family, columns, ..Kind::new("example.org", &["v1"], names, Scope::Namespaced, schema) }
}

fn column(name: &'static str, column_type: &'static str, cell: Cell) -> Column {
    Column { name, column_type, description: "", priority: 0, cell }
}

fn thing() -> Value {
    json!({
        "apiVersion": "example.org/v1",
        "kind": "Thing",
        "metadata": {"name": "a", "namespace": "default", "creationTimestamp": "2026-11-22T15:00:00Z"},
        "spec": {"replicas": 3, "share": 1.75, "paused": true, "size": "4Gi", "addresses": ["10.0.0.1", "fe80::1"]},
    })
}

fn now() -> Timestamp {
    "2026-11-22T15:05:03Z".parse().unwrap()
}

fn list() -> Map<String, Value> {
    json!({"resourceVersion": "7", "continue": "", "remainingItemCount": 2, "selfLink": "x"})
        .as_object()
        .unwrap()
        .clone()
}

#[test]
fn a_kind_without_columns_shows_names_and_ages() {
    let kind = kind(Family::Custom, Vec::new());
    let made = table(&kind, &[thing()], &list(), now(), IncludeObject::Metadata, true);
    assert_eq!(made["kind"], "Table");
    assert_eq!(made["apiVersion"], "meta.k8s.io/v1");
    assert_eq!(made["metadata"], json!({"resourceVersion": "7", "remainingItemCount": 2}));
    assert_eq!(made["columnDefinitions"][0]["name"], "Name");
    assert_eq!(made["columnDefinitions"][0]["format"], "name");
    assert_eq!(made["columnDefinitions"][1]["name"], "Age");
    assert_eq!(made["columnDefinitions"][1]["type"], "date");
    assert_eq!(made["rows"][0]["cells"], json!(["a", "5m3s"]));
    assert_eq!(
        made["rows"][0]["object"],
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": thing()["metadata"]})
    );
}

#[test]
fn a_scale_shows_what_is_wanted_and_what_there_is() {
    let kind = kind(Family::BuiltIn, vec![column("Ready", "string", Cell::JsonPath(".status.ready"))]);
    let scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": "a", "creationTimestamp": "2026-11-22T15:00:00Z"},
        "spec": {"replicas": 7}, "status": {"replicas": 2},
    });
    let made = table(&kind, &[scale], &list(), now(), IncludeObject::None, true);
    let headings: Vec<_> =
        made["columnDefinitions"].as_array().unwrap().iter().map(|of| &of["name"]).collect();
    assert_eq!(headings, ["Name", "Desired", "Available", "Age"]);
    assert_eq!(made["rows"][0]["cells"], json!(["a", 7, 2, "5m3s"]));
}

#[test]
fn cells_have_the_types_of_their_columns() {
    let columns = vec![
        column("Replicas", "integer", Cell::JsonPath(".spec.replicas")),
        column("Cut", "integer", Cell::JsonPath(".spec.share")),
        column("Share", "number", Cell::JsonPath(".spec.share")),
        column("Paused", "boolean", Cell::JsonPath(".spec.paused")),
        column("Size", "string", Cell::JsonPath(".spec.size")),
        column("Count", "string", Cell::JsonPath(".spec.replicas")),
        column("Addresses", "string", Cell::JsonPath(".spec.addresses")),
        column("First", "string", Cell::JsonPath(".spec.addresses[*]")),
        column("Missing", "string", Cell::JsonPath(".spec.missing")),
        column("Wrong", "integer", Cell::JsonPath(".spec.size")),
        column("Broken", "string", Cell::JsonPath(".spec[")),
        column("Then", "date", Cell::JsonPath(".spec.size")),
        column("Nobody", "string", Cell::Function(|_, _| None)),
        column("Somebody", "string", Cell::Function(|object, _| object.pointer("/metadata/name").cloned())),
    ];
    let made = table(&kind(Family::Custom, columns), &[thing()], &list(), now(), IncludeObject::None, true);
    let expected = json!([
        "a",
        3,
        1,
        1.75,
        true,
        "4Gi",
        "3",
        "[\"10.0.0.1\",\"fe80::1\"]",
        "10.0.0.1",
        null,
        null,
        null,
        "<invalid>",
        "<none>",
        "a"
    ]);
    assert_eq!(made["rows"][0]["cells"], expected);
    assert_eq!(made["rows"][0]["object"], Value::Null);
    let description = &made["columnDefinitions"][1]["description"];
    assert_eq!(*description, "Custom resource definition column (in JSONPath format): .spec.replicas");
    assert_eq!(made["columnDefinitions"].as_array().unwrap().len(), expected.as_array().unwrap().len());
}

#[test]
fn later_events_of_a_watch_and_empty_lists_have_the_form_of_gos() {
    let made =
        table(&kind(Family::Custom, Vec::new()), &[], &Map::new(), now(), IncludeObject::Object, false);
    let text =
        r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{},"columnDefinitions":null,"rows":[]}"#;
    assert_eq!(made.to_string(), text);
    let made =
        table(&kind(Family::BuiltIn, Vec::new()), &[thing()], &list(), now(), IncludeObject::Object, false);
    assert_eq!(made["rows"][0]["object"], thing());
}

#[test]
fn what_a_row_includes_is_named_as_in_table_options() {
    assert_eq!(IncludeObject::parse(""), Some(IncludeObject::Metadata));
    assert_eq!(IncludeObject::parse("Metadata"), Some(IncludeObject::Metadata));
    assert_eq!(IncludeObject::parse("None"), Some(IncludeObject::None));
    assert_eq!(IncludeObject::parse("Object"), Some(IncludeObject::Object));
    assert_eq!(IncludeObject::parse("object"), None);
}

#[test]
fn metadata_alone_is_a_kind_of_its_own() {
    let made = partial_list(&[thing(), json!({})], &list());
    assert_eq!(made["kind"], "PartialObjectMetadataList");
    assert_eq!(made["metadata"]["resourceVersion"], "7");
    assert_eq!(made["items"][0], partial(&thing()));
    assert_eq!(made["items"][1]["metadata"], json!({}));
    assert_eq!(made["items"][0].get("spec"), None);
    let old = in_version(made, "meta.k8s.io/v1beta1");
    assert_eq!(old["apiVersion"], "meta.k8s.io/v1beta1");
    assert_eq!(old["items"][1]["apiVersion"], "meta.k8s.io/v1beta1");
}

#[test]
fn an_older_version_of_a_table_leaves_whole_objects_alone() {
    for (include, expected) in
        [(IncludeObject::Object, "example.org/v1"), (IncludeObject::Metadata, "meta.k8s.io/v1beta1")]
    {
        let made = table(&kind(Family::Custom, Vec::new()), &[thing()], &list(), now(), include, true);
        let old = in_version(made, "meta.k8s.io/v1beta1");
        assert_eq!(old["apiVersion"], "meta.k8s.io/v1beta1");
        assert_eq!(old["rows"][0]["object"]["apiVersion"], expected);
    }
}

#[test]
fn ages_are_those_of_kubectl() {
    assert_eq!(age("2026-11-22T15:05:00Z", now()), "3s");
    assert_eq!(age("2026-11-22T16:05:00+01:00", now()), "3s");
    assert_eq!(age("", now()), "<unknown>");
    assert_eq!(age("yesterday", now()), "<invalid>");
    assert_eq!(age("2027-01-01T00:00:00Z", now()), "<invalid>");
}

#[test]
fn durations_keep_two_or_three_figures() {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let cases = [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (1, "1s"),
        (70, "70s"),
        (2 * MINUTE - 1, "119s"),
        (2 * MINUTE, "2m"),
        (2 * MINUTE + 1, "2m1s"),
        (190, "3m10s"),
        (10 * MINUTE - 1, "9m59s"),
        (10 * MINUTE, "10m"),
        (10 * MINUTE + 1, "10m"),
        (70 * MINUTE, "70m"),
        (3 * HOUR - 1, "179m"),
        (3 * HOUR, "3h"),
        (3 * HOUR + MINUTE, "3h1m"),
        (8 * HOUR - 1, "7h59m"),
        (8 * HOUR, "8h"),
        (8 * HOUR + 59 * MINUTE, "8h"),
        (2 * DAY - 1, "47h"),
        (2 * DAY, "2d"),
        (2 * DAY + HOUR, "2d1h"),
        (8 * DAY - 1, "7d23h"),
        (8 * DAY, "8d"),
        (8 * DAY + 23 * HOUR, "8d"),
        (367 * DAY, "367d"),
        (2 * YEAR - 1, "729d"),
        (2 * YEAR, "2y"),
        (2 * YEAR + DAY - 1, "2y"),
        (2 * YEAR + DAY, "2y1d"),
        (3 * YEAR, "3y"),
        (8 * YEAR - 1, "7y364d"),
        (8 * YEAR, "8y"),
        (8 * YEAR + 364 * DAY, "8y"),
        (9 * YEAR, "9y"),
    ];
    for (seconds, expected) in cases {
        assert_eq!(human_duration(SignedDuration::from_secs(seconds)), expected, "{seconds}");
    }
    assert_eq!(human_duration(SignedDuration::new(-1, -999_999_999)), "0s");
}
