use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

use super::*;
use crate::auth::memory::Memory;
use crate::status::ApiError;

fn account(namespace: &str, name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "namespace": namespace, "name": name, "uid": uid },
    })
}

fn pod(name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "ns", "name": name, "uid": uid },
        "spec": { "serviceAccountName": "robot", "nodeName": "n1" },
    })
}

struct Tokens {
    _directory: TempDir,
    objects: Memory,
    authenticator: Authenticator,
}

impl Tokens {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1", "uid": "u-n1" } });
        let objects = Memory::with([account("ns", "robot", "u1"), pod("p", "u-p"), node]);
        let authorities = Arc::new(open(directory.path(), now()).unwrap());
        let file = TokenFile::parse("s3cret,joe,7,\"a,b\"\n").unwrap();
        let authenticator = Authenticator::new(authorities, Some(file), objects.clone());
        Self { _directory: directory, objects, authenticator }
    }

    fn issue(&self, name: &str, spec: Value) -> Result<Value, ApiError> {
        let request = json!({ "spec": spec });
        let (authorities, objects) = (self.authenticator.authorities(), self.authenticator.objects());
        issue_token(authorities, objects, "ns", name, &request, now(), "id-1")
    }

    fn token(&self, spec: Value) -> String {
        self.issue("robot", spec).unwrap()["status"]["token"].as_str().unwrap().to_owned()
    }

    fn ask(&self, token: &str, at: Timestamp) -> Result<Option<Identity>, ApiError> {
        let headers = headers(&[("authorization", &format!("Bearer {token}"))]);
        self.authenticator.authenticate(None, &headers, at)
    }
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[test]
fn a_service_account_token_is_that_of_kubernetes() {
    let tokens = Tokens::new();
    let answer = tokens
        .issue("robot", json!({ "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "p" } }));
    let answer = answer.unwrap();
    assert_eq!(answer["kind"], "TokenRequest");
    assert_eq!(answer["status"]["expirationTimestamp"], "2026-11-22T13:00:00Z");
    assert_eq!(answer["spec"]["expirationSeconds"], 3600);
    let token = answer["status"]["token"].as_str().unwrap();
    let second = now().as_second();
    assert_eq!(
        claims(token),
        json!({
            "aud": [ISSUER], "exp": second + 3600, "iat": second, "iss": ISSUER, "jti": "id-1",
            "kubernetes.io": {
                "namespace": "ns",
                "serviceaccount": { "name": "robot", "uid": "u1" },
                "node": { "name": "n1", "uid": "u-n1" },
                "pod": { "name": "p", "uid": "u-p" },
            },
            "nbf": second, "sub": "system:serviceaccount:ns:robot",
        })
    );
    let robot = tokens.ask(token, now()).unwrap().unwrap();
    assert_eq!((robot.user.as_str(), robot.uid.as_str()), ("system:serviceaccount:ns:robot", "u1"));
    assert_eq!(robot.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED]);
    assert_eq!(
        json!(robot.extra),
        json!({
            "authentication.kubernetes.io/credential-id": ["JTI=id-1"],
            "authentication.kubernetes.io/node-name": ["n1"],
            "authentication.kubernetes.io/node-uid": ["u-n1"],
            "authentication.kubernetes.io/pod-name": ["p"],
            "authentication.kubernetes.io/pod-uid": ["u-p"],
        })
    );
}

#[test]
fn a_token_ends_with_its_time_its_account_and_its_pod() {
    let tokens = Tokens::new();
    let plain = tokens.token(json!({}));
    let of_pod =
        tokens.token(json!({ "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "p" } }));
    let second = SignedDuration::from_secs(1);
    assert!(tokens.ask(&plain, now() + second * 3599).is_ok());
    assert_eq!(tokens.ask(&plain, now() + second * 3600).unwrap_err().code, 401);
    assert!(tokens.ask(&plain, now() - second * 60).is_ok());
    assert_eq!(tokens.ask(&plain, now() - second * 61).unwrap_err().code, 401);

    tokens.objects.put(pod("p", "another"));
    assert_eq!(tokens.ask(&of_pod, now()).unwrap_err().code, 401);
    tokens.objects.put(pod("p", "u-p"));
    assert!(tokens.ask(&of_pod, now()).is_ok());
    tokens.objects.remove(&pod("p", "u-p"));
    assert_eq!(tokens.ask(&of_pod, now()).unwrap_err().code, 401);

    tokens.objects.put(account("ns", "robot", "u2"));
    assert_eq!(tokens.ask(&plain, now()).unwrap_err().code, 401);
    tokens.objects.remove(&account("ns", "robot", "u2"));
    assert_eq!(tokens.ask(&plain, now()).unwrap_err().code, 401);
}

#[test]
fn a_token_that_is_not_exactly_ours_is_nobodys() {
    let tokens = Tokens::new();
    let good = tokens.token(json!({}));
    let [header, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let key_id =
        serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap()["kid"].clone();
    let none = encode(json!({ "alg": "none", "kid": key_id }));
    let hmac = encode(json!({ "alg": "HS256", "kid": key_id }));
    let critical = encode(json!({ "alg": "ES256", "kid": key_id, "crit": ["x"] }));
    let mut wider = claims(&good);
    wider["sub"] = "system:serviceaccount:ns:admin".into();
    let elsewhere = Tokens::new().token(json!({}));
    let audience = tokens.token(json!({ "audiences": ["vault"] }));
    let table = [
        format!("{none}.{body}."),
        format!("{none}.{body}.{signature}"),
        format!("{hmac}.{body}.{signature}"),
        format!("{critical}.{body}.{signature}"),
        format!("{header}.{}.{signature}", encode(wider)),
        format!("{header}.{body}."),
        format!("{header}.{body}"),
        format!("{header}.{body}.{signature}="),
        format!("{header}.{body}.{signature}.x"),
        format!("{good}{}", "A".repeat(9000)),
        "..".to_owned(),
        "s3cret2".to_owned(),
        "s3cre".to_owned(),
        "é".to_owned(),
        elsewhere,
        audience,
    ];
    for token in table {
        assert_eq!(tokens.ask(&token, now()), Err(ApiError::unauthorized()), "{token}");
    }
    assert!(tokens.ask(&good, now()).unwrap().is_some());
}

#[test]
fn token_requests_are_checked() {
    let tokens = Tokens::new();
    let reference = |kind: &str, name: &str, uid: &str| json!({ "boundObjectRef": { "kind": kind, "apiVersion": "v1", "name": name, "uid": uid } });
    tokens.objects.put(account("ns", "other", "u9"));
    let table = [
        ("absent", json!({}), 404, r#"serviceaccounts "absent" not found"#),
        (
            "robot",
            json!({ "expirationSeconds": 599 }),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
        ),
        (
            "robot",
            json!({ "expirationSeconds": 4294967297_i64 }),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
        ),
        ("robot", reference("Pod", "q", ""), 404, r#"pods "q" not found"#),
        (
            "robot",
            reference("Pod", "p", "x"),
            409,
            "Operation cannot be fulfilled on pods \"p\": the UID in the bound object reference (x) does not match the UID in record. The object might have been deleted and then recreated",
        ),
        (
            "robot",
            reference("Robot", "p", ""),
            400,
            "cannot bind token for serviceaccount \"robot\" to object /v1, Kind=Robot",
        ),
        (
            "other",
            reference("Pod", "p", ""),
            400,
            "cannot bind token for serviceaccount \"other\" to pod running with different serviceaccount name.",
        ),
    ];
    for (name, spec, code, message) in table {
        let error = tokens.issue(name, spec).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (code, message));
    }
    assert!(tokens.issue("robot", json!({ "expirationSeconds": 600 })).is_ok());
    assert!(tokens.issue("robot", json!({ "expirationSeconds": 4294967296_i64 })).is_ok());
}

#[test]
fn reviews_say_who_it_is() {
    let tokens = Tokens::new();
    let review = |token: &str, audiences: Value| {
        let review = json!({ "spec": { "token": token, "audiences": audiences } });
        token_review(&tokens.authenticator, &review, now()).map(|review| review["status"].clone())
    };
    assert_eq!(
        review("s3cret", json!(null)),
        Ok(json!({
            "authenticated": true,
            "user": { "username": "joe", "uid": "7", "groups": ["a", "b", "system:authenticated"] },
        }))
    );
    assert_eq!(review("wrong", json!(null)), Ok(json!({ "user": {}, "error": "invalid bearer token" })));
    assert_eq!(review("", json!(null)).unwrap_err().code, 400);
    let token = tokens.token(json!({ "audiences": ["vault", "x"] }));
    assert_eq!(review(&token, json!(["vault", "y"])).unwrap()["audiences"], json!(["vault"]));
    assert_eq!(review(&token, json!(["y"])).unwrap()["error"], "invalid bearer token");

    let joe = tokens.ask("s3cret", now()).unwrap().unwrap();
    let review = self_subject_review(&joe, &json!({}), now());
    assert_eq!(review["status"]["userInfo"]["username"], "joe");
    assert_eq!(review["metadata"]["creationTimestamp"], "2026-11-22T12:00:00Z");
}

#[test]
fn what_is_no_bearer_token_is_no_credential() {
    let tokens = Tokens::new();
    let table = [
        ("Bearer s3cret", Ok(true)),
        ("bearer s3cret", Ok(true)),
        ("  Bearer s3cret  ", Ok(true)),
        ("Bearer", Ok(false)),
        ("Bearer  ", Ok(false)),
        ("Basic am9lOnMzY3JldA==", Ok(false)),
        ("", Ok(false)),
        ("Bearer x", Err(401)),
        ("Bearer \u{fc}", Err(401)),
    ];
    for (value, expected) in table {
        let headers = headers(&[("authorization", value)]);
        let answer = tokens.authenticator.authenticate(None, &headers, now());
        assert_eq!(answer.map(|who| who.is_some()).map_err(|error| error.code), expected, "{value:?}");
    }
    // A good token counts beside a bad certificate, a bad token does not hurt beside a good certificate.
    let authorities = tokens.authenticator.authorities();
    let (certificate, _) = authorities.issue_client("alice", "devs", now());
    let who = |peer: &[u8], token: &str| {
        let headers = headers(&[("authorization", token)]);
        tokens.authenticator.authenticate(Some(peer), &headers, now()).map(|who| who.unwrap().user)
    };
    assert_eq!(who(b"bad", "Bearer s3cret").unwrap(), "joe");
    assert_eq!(who(&der(&certificate), "Bearer wrong").unwrap(), "alice");
    assert_eq!(who(b"bad", "Bearer wrong").unwrap_err().code, 401);
}

#[test]
fn any_text_is_no_token() {
    let tokens = Tokens::new();
    let good = tokens.token(json!({}));
    let (length, ask) = (good.len(), |token: &str| tokens.ask(token, now()));
    proptest!(|(token in "[\\PC&&[^ ]]{1,60}(\\.[\\PC&&[^ ]]{0,60}){0,3}")| {
        prop_assert!(ask(&token).is_err());
    });
    // The last character of a base64 text may hold bits that count for nothing; those must be zero.
    proptest!(|(place in 0..length, with in "[A-Za-z0-9_.-]")| {
        let mut token = good.clone();
        token.replace_range(place..=place, &with);
        prop_assert_eq!(ask(&token).is_ok(), token == good);
    });
}
