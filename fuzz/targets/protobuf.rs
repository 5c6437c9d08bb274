//! A body in Kubernetes' protobuf.
#![no_main]

use apiserver::protobuf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // What comes behind the prefix is of interest, so it need not be found.
    let body = [b"k8s\0", bytes].concat();
    for (version, kind) in
        [("v1", "Pod"), ("v1", "ConfigMap"), ("rbac.authorization.k8s.io/v1", "ClusterRole")]
    {
        if let Err(error) = protobuf::decode(&body, version, kind) {
            let _ = error.to_api_error(kind, &body);
        }
    }
});
