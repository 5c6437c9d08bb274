//! Who may do what: tokens, roles, reviews, impersonation, and nobody at all.

use serde_json::{Value, json};

use crate::target::{MERGE, Reply, Space, with_space};

const RBAC: &str = "rbac.authorization.k8s.io/v1";
const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";

/// A service account with these rules, what it is called, and the same place seen with its token.
async fn account(space: &Space, name: &str, rules: Value) -> (String, Space) {
    space.post("serviceaccounts", json!({"metadata": {"name": name}})).await.ok(201);
    let role = json!({"metadata": {"name": name}, "rules": rules});
    space.post(&format!("{RBAC}:roles"), role).await.ok(201);
    let binding = json!({"metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": space.name}]});
    space.post(&format!("{RBAC}:rolebindings"), binding).await.ok(201);
    let token = token(space, name).await;
    let user = format!("system:serviceaccount:{}:{name}", space.name);
    (user, space.with_client(space.target.client_with(Some(&token))))
}

async fn token(space: &Space, name: &str) -> String {
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
    let made = space.post(&format!("serviceaccounts/{name}/token"), request).await.ok(201);
    assert_eq!(made["kind"], "TokenRequest");
    assert!(made["status"]["expirationTimestamp"].is_string(), "{made}");
    made["status"]["token"].as_str().unwrap().to_owned()
}

#[track_caller]
fn forbidden(reply: &Reply, user: &str, verb: &str, resource: &str, name: &str, scope: &str) {
    let what = if name.is_empty() { resource.to_owned() } else { format!("{resource} \"{name}\"") };
    let plural = resource.split('.').next().unwrap();
    let group = resource.split_once('.').map_or("", |(_, group)| group);
    let message = format!(
        "{what} is forbidden: User \"{user}\" cannot {verb} resource \"{plural}\" in API group \"{group}\" {scope}"
    );
    let status = reply.refused_with(403, "Forbidden", &message);
    assert_eq!(status["details"]["kind"], plural, "{status}");
}

#[tokio::test]
async fn an_account_does_what_its_roles_say_and_nothing_else() {
    with_space(|space| async move {
        let rules = json!([
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "create", "patch"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["get"]},
        ]);
        let (user, account) = account(&space, "reader", rules).await;
        for name in ["mine", "other"] {
            space.post("secrets", json!({"metadata": {"name": name}})).await.ok(201);
        }
        let within = format!("in the namespace \"{}\"", space.name);
        let whole = "at the cluster scope";

        // What it may.
        account.eventually("configmaps", |reply| reply.code == 200).await;
        account.post("configmaps", json!({"metadata": {"name": "a"}})).await.ok(201);
        account.patch("configmaps/a", MERGE, json!({"data": {"k": "v"}})).await.ok(200);
        account.get("secrets/mine").await.ok(200);
        let reply = account.get("pods/none/status").await;
        reply.refused_with(404, "NotFound", "pods \"none\" not found");
        account.get("configmaps?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3Da").await;

        // What it may not.
        forbidden(&account.delete("configmaps/a").await, &user, "delete", "configmaps", "a", &within);
        forbidden(&account.delete("configmaps").await, &user, "deletecollection", "configmaps", "", &within);
        forbidden(&account.get("secrets").await, &user, "list", "secrets", "", &within);
        forbidden(&account.get("secrets/other").await, &user, "get", "secrets", "other", &within);
        forbidden(&account.get("secrets?watch=true").await, &user, "watch", "secrets", "", &within);
        forbidden(&account.get("pods/none").await, &user, "get", "pods", "none", &within);
        forbidden(&account.get("/api/v1/configmaps").await, &user, "list", "configmaps", "", whole);
        forbidden(&account.get("/api/v1/nodes").await, &user, "list", "nodes", "", whole);
        forbidden(&account.get("apps/v1:deployments").await, &user, "list", "deployments.apps", "", &within);
        forbidden(&account.get("/api/v1/namespaces/default/configmaps").await, &user, "list", "configmaps", "", "in the namespace \"default\"");
        let reply = account.put("configmaps/a", json!({"metadata": {"name": "a"}})).await;
        forbidden(&reply, &user, "update", "configmaps", "a", &within);
        let reply = account.get("/metrics").await;
        reply.refused_with(403, "Forbidden", &format!("forbidden: User \"{user}\" cannot get path \"/metrics\""));
        // Everybody with credentials may discover.
        for path in ["/api", "/apis", "/apis/apps/v1", "/openapi/v2", "/openapi/v3", "/version"] {
            assert_eq!(account.get(path).await.code, 200, "{path}");
        }

        // Nobody grants what they do not have.
        space.post(&format!("{RBAC}:roles"), json!({"metadata": {"name": "makes"}, "rules": [
            {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create"]}]})).await.ok(201);
        space.post(&format!("{RBAC}:rolebindings"), json!({"metadata": {"name": "makes"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "makes"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader"}]})).await;
        space.post(&format!("{RBAC}:rolebindings"), json!({"metadata": {"name": "makes-too"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "makes"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": space.name}]})).await.ok(201);
        let grant = |verbs: Value| json!({"metadata": {"name": "granted"}, "rules": [
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}]});
        let path = format!("{RBAC}:roles");
        let deadline = std::time::Instant::now() + crate::server::DEADLINE;
        let reply = loop {
            let reply = account.post(&path, grant(json!(["get", "delete"]))).await;
            if reply.text().contains("attempting to grant") || std::time::Instant::now() > deadline {
                break reply;
            }
        };
        let text = reply.refused_with(403, "Forbidden", "roles.rbac.authorization.k8s.io \"granted\" is forbidden: user \"")["message"].clone();
        let text = text.as_str().unwrap();
        assert!(text.contains("is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"configmaps\"], Verbs:[\"delete\"]}"), "{text}");
        account.post(&path, grant(json!(["get"]))).await.ok(201);

        // With the account its token ends.
        space.delete("serviceaccounts/reader").await.ok(200);
        let reply = account.eventually("configmaps", |reply| reply.code != 200).await;
        reply.refused(401, "Unauthorized", "Unauthorized");
    })
    .await;
}

#[tokio::test]
async fn reviews_tell_who_may_do_what() {
    with_space(|space| async move {
        let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]);
        let (user, account) = account(&space, "asked", rules).await;
        account.eventually("configmaps/kube-root-ca.crt", |reply| reply.code == 200).await;
        let attributes = |verb: &str| json!({"namespace": space.name, "verb": verb, "resource": "configmaps"});
        // By the account for itself, and by the administrator for the account.
        for (verb, allowed) in [("get", true), ("list", false)] {
            let path = format!("{AUTHORIZATION}/selfsubjectaccessreviews");
            let review = account.post(&path, json!({"spec": {"resourceAttributes": attributes(verb)}})).await.ok(201);
            assert_eq!((&review["kind"], &review["status"]["allowed"]), (&json!("SelfSubjectAccessReview"), &json!(allowed)), "{review}");
            let path = format!("{AUTHORIZATION}/subjectaccessreviews");
            let review = space.post(&path, json!({"spec": {"user": user, "resourceAttributes": attributes(verb)}})).await.ok(201);
            assert_eq!(review["status"]["allowed"], allowed, "{review}");
            let path = format!("{AUTHORIZATION}/namespaces/{}/localsubjectaccessreviews", space.name);
            let body = json!({"metadata": {"namespace": space.name}, "spec": {"user": user, "resourceAttributes": attributes(verb)}});
            let review = space.post(&path, body).await.ok(201);
            assert_eq!(review["status"]["allowed"], allowed, "{review}");
        }
        let path = format!("{AUTHORIZATION}/selfsubjectaccessreviews");
        let review = account.post(&path, json!({"spec": {"nonResourceAttributes": {"path": "/version", "verb": "get"}}})).await.ok(201);
        assert_eq!(review["status"]["allowed"], true);
        account.post(&path, json!({"spec": {}})).await.refused_with(422, "Invalid",
            "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified");
        let path = format!("{AUTHORIZATION}/selfsubjectrulesreviews");
        let review = account.post(&path, json!({"spec": {"namespace": space.name}})).await.ok(201);
        let listed = review["status"]["resourceRules"].as_array().unwrap();
        assert!(listed.iter().any(|rule| rule["resources"] == json!(["configmaps"]) && rule["verbs"] == json!(["get"])), "{review}");
        // Nobody asks for others without leave.
        let path = format!("{AUTHORIZATION}/subjectaccessreviews");
        let reply = account.post(&path, json!({"spec": {"user": "x", "resourceAttributes": attributes("get")}})).await;
        forbidden(&reply, &user, "create", "subjectaccessreviews.authorization.k8s.io", "", "at the cluster scope");
        // Who one is, and whose a token is.
        let me = account.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await.ok(201);
        assert_eq!(me["status"]["userInfo"]["username"], user.as_str(), "{me}");
        assert!(me["status"]["userInfo"]["groups"].as_array().unwrap().contains(&json!(format!("system:serviceaccounts:{}", space.name))), "{me}");
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let shown = token(&space, "asked").await;
        let review = space.post(path, json!({"spec": {"token": shown}})).await.ok(201);
        assert_eq!((&review["status"]["authenticated"], &review["status"]["user"]["username"]), (&json!(true), &json!(user)), "{review}");
        let review = space.post(path, json!({"spec": {"token": format!("{shown}x")}})).await.ok(201);
        assert!(review["status"]["authenticated"] != true, "{review}");
        assert_eq!(review["status"]["user"].get("username"), None, "{review}");
    })
    .await;
}

#[tokio::test]
async fn the_administrator_may_be_another() {
    with_space(|space| async move {
        let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]);
        let (user, account) = account(&space, "other", rules).await;
        account.eventually("configmaps", |reply| reply.code == 200).await;
        let as_other = [("impersonate-user", user.as_str())];
        let list = space.send("GET", "configmaps", &as_other, ()).await;
        list.ok(200);
        let reply = space.send("GET", "secrets", &as_other, ()).await;
        forbidden(&reply, &user, "list", "secrets", "", &format!("in the namespace \"{}\"", space.name));
        let headers = [
            ("impersonate-user", "jane"), ("impersonate-group", "one"), ("impersonate-group", "two"),
            ("impersonate-uid", "77"), ("impersonate-extra-example.com%2fscope", "s"),
        ];
        let me = space.send("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &headers, json!({})).await.ok(201);
        assert_eq!(
            me["status"]["userInfo"],
            json!({"username": "jane", "uid": "77", "groups": ["one", "two", "system:authenticated"], "extra": {"example.com/scope": ["s"]}})
        );
        let masters = [("impersonate-user", "jane"), ("impersonate-group", "system:masters")];
        space.send("GET", "secrets", &masters, ()).await.ok(200);
        // It takes leave to be another, and a name.
        let reply = account.send("GET", "configmaps", &[("impersonate-user", "jane")], ()).await;
        forbidden(&reply, &user, "impersonate", "users", "jane", "at the cluster scope");
        let reply = space.send("GET", "configmaps", &[("impersonate-group", "one")], ()).await;
        assert!(reply.code == 500 || reply.code == 400, "{}", reply.text());
        assert!(reply.text().contains("without impersonating a user"), "{}", reply.text());
    })
    .await;
}

#[tokio::test]
async fn nobody_sees_nothing() {
    with_space(|space| async move {
        space.post("secrets", json!({"metadata": {"name": "s"}})).await.ok(201);
        let nobody = space.with_client(space.target.client_with(None));
        for path in ["/healthz", "/livez", "/readyz", "/version"] {
            assert_eq!(nobody.get(path).await.code, 200, "{path}");
        }
        let ours = space.target.ours_alone();
        let paths = [
            "/",
            "/api",
            "/apis",
            "/api/v1",
            "/apis/apps/v1",
            "/openapi/v2",
            "/openapi/v3",
            "/openapi/v3/api/v1",
            "/metrics",
            "/api/v1/namespaces",
            "/api/v1/nodes",
            "secrets",
            "secrets/s",
            "configmaps?watch=true",
            "/nothing",
            "/apis/nothing/v1/x",
            "/healthz/../api",
            "/livez/nothing",
            "//api/v1/nodes",
        ];
        for path in paths {
            let reply = nobody.get(path).await;
            // Kubernetes lets nobody in as an anonymous user who may do nothing, unless told not to.
            // Paths that nothing can have are found out before anybody is asked for.
            let nowhere = reply.code == 404 && (path.contains("//") || path.contains(".."));
            let refused = reply.code == 401 || nowhere || (!ours && matches!(reply.code, 301 | 403 | 404));
            assert!(refused, "{path}: {}", reply.text());
            if reply.code == 401 {
                reply.refused(401, "Unauthorized", "Unauthorized");
            }
            assert!(!reply.text().contains("apiVersion\":\"apps"), "{path}");
        }
        for (method, path) in [
            ("POST", "configmaps"),
            ("PUT", "configmaps/a"),
            ("PATCH", "configmaps/a"),
            ("DELETE", "secrets/s"),
            ("DELETE", "secrets"),
            ("POST", "/version"),
            ("DELETE", "/healthz"),
        ] {
            let reply = nobody
                .send(method, path, &[("content-type", MERGE)], json!({"metadata": {"name": "a"}}))
                .await;
            assert!(matches!(reply.code, 401 | 403), "{method} {path}: {}", reply.text());
            assert!(!ours || reply.code == 401, "{method} {path}: {}", reply.text());
        }
        // A wrong token is not nobody: it is refused everywhere, on the health paths too.
        for token in ["nonsense", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06YWRtaW4ifQ."] {
            let wrong = space.with_client(space.target.client_with(Some(token)));
            for path in ["/api/v1/namespaces", "/version", "/apis"] {
                wrong.get(path).await.refused(401, "Unauthorized", "Unauthorized");
            }
        }
        // And nobody is not made somebody by asking for it.
        let reply = nobody
            .send(
                "GET",
                "secrets",
                &[("impersonate-user", "kubernetes-admin"), ("impersonate-group", "system:masters")],
                (),
            )
            .await;
        assert!(matches!(reply.code, 401 | 403), "{}", reply.text());
        space.get("secrets/s").await.ok(200);
    })
    .await;
}
