#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const TABLE: Transform = Transform::Table(MetaVersion::V1);

#[test]
fn the_first_clause_that_can_be_met_wins() {
    let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
                    application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
    let table = [
        ("", Encoding::Json, Transform::None),
        ("*/*", Encoding::Json, Transform::None),
        ("application/*", Encoding::Json, Transform::None),
        ("*", Encoding::Json, Transform::None),
        ("application/json", Encoding::Json, Transform::None),
        ("application/yaml", Encoding::Yaml, Transform::None),
        ("APPLICATION/YAML", Encoding::Yaml, Transform::None),
        ("application/yaml;q=0.5, application/json", Encoding::Json, Transform::None),
        ("application/json;q=0.5, application/yaml;q=0.9", Encoding::Yaml, Transform::None),
        ("*/*, application/yaml", Encoding::Yaml, Transform::None),
        ("application/vnd.kubernetes.protobuf, */*", Encoding::Json, Transform::None),
        ("application/vnd.kubernetes.protobuf,application/json", Encoding::Json, Transform::None),
        (kubectl, Encoding::Json, TABLE),
        ("application/json;as=Table;v=v2;g=meta.k8s.io,application/json", Encoding::Json, Transform::None),
        (metadata, Encoding::Json, Transform::PartialList(MetaVersion::V1)),
        (
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1beta1",
            Encoding::Json,
            Transform::Partial(MetaVersion::V1beta1),
        ),
    ];
    for (accept, encoding, transform) in table {
        let found = form(accept, Endpoint::Objects).unwrap();
        assert_eq!((found.encoding, found.transform), (encoding, transform), "{accept}");
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    for accept in [
        "application/vnd.kubernetes.protobuf",
        "application/cbor",
        "text/html",
        "application/json;q=0",
        "nonsense",
    ] {
        let error = form(accept, Endpoint::Objects).unwrap_err();
        assert_eq!(error.code, 406, "{accept}");
        assert_eq!(
            error.message,
            "only the following media types are accepted: application/json, application/yaml"
        );
    }
    assert!(form("application/yaml", Endpoint::Watch).is_err());
    assert!(form("application/json;stream=watch", Endpoint::Watch).is_ok());
    assert!(form("application/json;as=Table;v=v1;g=meta.k8s.io", Endpoint::Plain).is_err());
}

#[test]
fn bodies_have_known_types() {
    for (text, encoding) in [
        ("", BodyEncoding::Json),
        ("application/json; charset=utf-8", BodyEncoding::Json),
        ("application/yaml", BodyEncoding::Yaml),
    ] {
        assert_eq!(body_encoding(text, false).unwrap(), encoding);
        assert_eq!(body_encoding(text, true).unwrap(), encoding);
    }
    let protobuf = "application/vnd.kubernetes.protobuf";
    assert_eq!(body_encoding(protobuf, true).unwrap(), BodyEncoding::Protobuf);
    let error = body_encoding("text/plain", true).unwrap_err();
    assert!(
        error.message.ends_with("application/json, application/yaml, application/vnd.kubernetes.protobuf")
    );
    let error = body_encoding(protobuf, false).unwrap_err();
    assert_eq!((error.code, error.reason), (415, "UnsupportedMediaType"));
    assert_eq!(
        error.message,
        "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml"
    );
    assert_eq!(patch_type("application/strategic-merge-patch+json", true).unwrap(), PatchFormat::Strategic);
    assert_eq!(
        patch_type("application/strategic-merge-patch+json", false).unwrap_err().message,
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    );
    assert_eq!(patch_type("", true).unwrap_err().code, 415);
}

#[test]
fn discovery_is_aggregated_where_it_is_wanted() {
    let both = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    assert_eq!(discovery_form(both).unwrap(), DiscoveryForm::Aggregated(Aggregated::V2));
    let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    assert_eq!(discovery_form(beta).unwrap(), DiscoveryForm::Aggregated(Aggregated::V2Beta1));
    for plain in ["", "*/*", "application/json, */*"] {
        assert_eq!(discovery_form(plain).unwrap(), DiscoveryForm::Plain(Form::default()), "{plain}");
    }
    assert_eq!(discovery_form("application/cbor").unwrap_err().code, 406);
}

#[test]
fn gzip_is_used_only_where_it_is_wanted() {
    assert!(accepts_gzip("gzip") && accepts_gzip("deflate, GZIP;q=0.5"));
    assert!(
        !accepts_gzip("") && !accepts_gzip("br") && !accepts_gzip("gzip;q=0") && !accepts_gzip("identity")
    );
}

#[test]
fn warnings_are_quoted() {
    assert_eq!(warning_header("unknown field \"spec.x\"\n"), "299 - \"unknown field \\\"spec.x\\\" \"");
}

proptest! {
    #[test]
    fn any_header_is_read(accept in ".{0,80}", other in "(application/|json|;|q=|0\\.[0-9]|,|\\*|/|as=Table| ){0,20}") {
        for text in [&accept, &other] {
            for endpoint in [Endpoint::Objects, Endpoint::Watch, Endpoint::Plain] {
                let _ = form(text, endpoint);
            }
            let _ = (discovery_form(text), patch_type(text, true), accepts_gzip(text));
            let _ = (body_encoding(text, true), body_encoding(text, false));
            prop_assert!(!warning_header(text).chars().any(char::is_control));
        }
    }
}
