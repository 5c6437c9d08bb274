//! Our kubeconfig is merged into whatever a user has.
#![no_main]

use apiserver::auth::merge_kubeconfig;
use libfuzzer_sys::fuzz_target;

const OURS: &str = "apiVersion: v1
kind: Config
current-context: ferrovirt
clusters: [{name: ferrovirt, cluster: {server: 'https://127.0.0.1:6443'}}]
users: [{name: ferrovirt, user: {token: t}}]
contexts: [{name: ferrovirt, context: {cluster: ferrovirt, user: ferrovirt}}]
";

fuzz_target!(|text: &str| {
    if let Ok(merged) = merge_kubeconfig(text, OURS) {
        assert_eq!(
            merge_kubeconfig(&merged, OURS).as_deref().ok(),
            Some(&*merged),
            "merging again changes nothing"
        );
    }
});
