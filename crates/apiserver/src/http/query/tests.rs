#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

#[test]
fn flags_and_numbers_are_those_of_kubernetes() {
    let query =
        Query::parse("watch&a=0&b=False&c=1&limit=500&bad=x5&big=99999999999999999999&n=-3&sp=a+b%20c&e=");
    assert!(query.flag("watch") && query.flag("c"));
    assert!(!query.flag("a") && !query.flag("b") && !query.flag("missing"));
    assert_eq!(query.number("limit").unwrap(), Some(500));
    assert_eq!(query.number("n").unwrap(), Some(-3));
    assert_eq!(query.number("e").unwrap(), None);
    assert_eq!(query.number("bad").unwrap_err().message, "strconv.ParseInt: parsing \"x5\": invalid syntax");
    assert_eq!(
        query.number("big").unwrap_err().message,
        "strconv.ParseInt: parsing \"99999999999999999999\": value out of range"
    );
    assert_eq!(query.text("sp"), "a b c");
}

#[test]
fn faults_of_write_options_are_all_named() {
    let table = [
        (
            "dryRun=Some",
            "PatchOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
        (
            "force=true",
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
        ),
        (
            "fieldValidation=strict",
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"strict\": supported values: \
             \"\", \"Ignore\", \"Strict\", \"Warn\"",
        ),
    ];
    for (query, message) in table {
        let error = WriteOptions::parse(&Query::parse(query), "PatchOptions", false).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (422, message));
    }
    let error = WriteOptions::parse(&Query::default(), "PatchOptions", true).unwrap_err();
    assert_eq!(
        error.message,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    let long = format!("fieldManager={}", "a".repeat(129));
    let error = WriteOptions::parse(&Query::parse(&long), "CreateOptions", false).unwrap_err();
    assert!(
        error.message.ends_with("fieldManager: Too long: may not be more than 128 bytes"),
        "{}",
        error.message
    );
    assert!(WriteOptions::parse(&Query::parse(&long[..long.len() - 1]), "CreateOptions", false).is_ok());
}

#[test]
fn good_write_options_are_read() {
    let query = Query::parse("dryRun=All&fieldManager=me&force=true&fieldValidation=Strict");
    let options = WriteOptions::parse(&query, "PatchOptions", true).unwrap();
    let expected = WriteOptions {
        dry_run: true,
        field_manager: "me".to_owned(),
        field_validation: FieldValidation::Strict,
        force: true,
    };
    assert_eq!(options, expected);
}

proptest! {
    #[test]
    fn any_query_is_read(text in ".{0,80}") {
        let query = Query::parse(&text);
        let _ = (WriteOptions::parse(&query, "PatchOptions", true), query.number("limit"), query.flag("watch"), query.all("dryRun").count());
    }
}
