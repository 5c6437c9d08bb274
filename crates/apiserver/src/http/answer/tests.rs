#![allow(clippy::unwrap_used)]

use std::io::Read as _;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use serde_json::json;

use super::*;
use crate::kind::{Names, SchemaSource, Scope};
use crate::store::Stored;
use crate::verbs::View;

fn kind(versions: &[&str]) -> Arc<Kind> {
    let names = Names::new("Thing", "things");
    Arc::new(Kind::new(
        "g.dev",
        versions,
        names,
        Scope::Namespaced,
        SchemaSource::new("x", serde_json::Map::new),
    ))
}

fn stored(name: &str, size: usize) -> Arc<Stored> {
    let object = json!({
        "apiVersion": "g.dev/v1", "kind": "Thing",
        "metadata": {"resourceVersion": "5", "name": name, "namespace": "a"}, "data": "x".repeat(size),
    });
    Arc::new(Stored {
        namespace: "a".into(),
        name: name.into(),
        revision: 5,
        created_revision: 5,
        json: Bytes::from(object.to_string()),
    })
}

fn listing(kind: &Kind, version: &str, items: Vec<Arc<Stored>>) -> List {
    List {
        items,
        view: View::new(kind, version),
        revision: 9,
        continue_token: "more".into(),
        remaining: Some(3),
    }
}

fn show(form: Form) -> Show {
    Show { form, include: IncludeObject::None, now: jiff::Timestamp::UNIX_EPOCH }
}

async fn read(response: Response) -> Vec<u8> {
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

#[tokio::test]
async fn a_list_is_its_stored_objects() {
    let kind = kind(&["v1", "v1beta1"]);
    for count in [0, 1, 3, 200] {
        let items: Vec<_> = (0..count).map(|at| stored(&format!("n{at}"), 1000)).collect();
        for version in ["v1", "v1beta1"] {
            let listing = listing(&kind, version, items.clone());
            let response = list(listing, &kind, version, show(Form::default())).await.unwrap();
            let announced =
                response.headers().get(CONTENT_LENGTH).map(|value| value.to_str().unwrap().to_owned());
            let body = read(response).await;
            if version == "v1" {
                assert_eq!(announced.unwrap(), body.len().to_string());
            }
            let value: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(value["kind"], "ThingList");
            assert_eq!(value["apiVersion"], format!("g.dev/{version}"));
            assert_eq!(
                value["metadata"],
                json!({"resourceVersion": "9", "continue": "more", "remainingItemCount": 3})
            );
            assert_eq!(value["items"].as_array().unwrap().len(), count);
            for (at, item) in value["items"].as_array().unwrap().iter().enumerate() {
                assert_eq!(item["metadata"]["name"], format!("n{at}"));
                assert_eq!(item["apiVersion"], format!("g.dev/{version}"));
            }
        }
    }
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_accepts_it() {
    let kind = kind(&["v1"]);
    let items: Vec<_> = (0..300).map(|at| stored(&format!("n{at}"), 1000)).collect();
    let plain =
        read(list(listing(&kind, "v1", items.clone()), &kind, "v1", show(Form::default())).await.unwrap())
            .await;
    let response = list(listing(&kind, "v1", items), &kind, "v1", show(Form::default())).await.unwrap();
    let response = compress(response, "gzip, deflate");
    assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
    assert!(!response.headers().contains_key(CONTENT_LENGTH));
    let packed = read(response).await;
    assert!(packed.len() < plain.len() / 10);
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain);

    let small = compress(bytes(200, "application/json", Bytes::from_static(b"{}")), "gzip");
    assert!(!small.headers().contains_key(CONTENT_ENCODING));
}

#[tokio::test]
async fn yaml_reads_back_as_the_same_value() {
    let value = json!({
        "kind": "Thing", "a": "yes", "b": "1e3", "c": "null", "d": "multi\nline\n", "e": "- x", "f": "", "g": [1, 2.5, true, null],
        "h": {"x: y": "#"}, "i": " padded ", "j": "012", "k": "2001-01-01", "l": "\t\u{1}é", "m": {}, "n": [],
    });
    let form = Form { encoding: Encoding::Yaml, ..Form::default() };
    let text = encode(&value, form).unwrap();
    let back = crate::decode::yaml(&text).unwrap();
    assert_eq!(back.value, value, "{}", String::from_utf8_lossy(&text));
}

#[tokio::test]
async fn errors_are_a_status_with_its_code() {
    let mut failure = ApiError::no_such_path();
    failure.details.as_mut().unwrap().retry_after_seconds = Some(1);
    let response = error(&failure, Form { transform: Transform::Table(MetaVersion::V1), ..Form::default() });
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()[RETRY_AFTER], "1");
    let value: Value = serde_json::from_slice(&read(response).await).unwrap();
    assert_eq!((value["kind"].as_str(), value["code"].as_u64()), (Some("Status"), Some(404)));
}

#[test]
fn warnings_are_bounded() {
    let mut response = text(200, String::new());
    let warnings: Vec<_> = (0..1000).map(|at| format!("unknown field \"spec.x{at}\"")).collect();
    warn(&mut response, &warnings);
    let count = response.headers().get_all(WARNING).iter().count();
    assert!(count > 10 && count < 200, "{count}");
    assert_eq!(response.headers()[WARNING], "299 - \"unknown field \\\"spec.x0\\\"\"");
}
