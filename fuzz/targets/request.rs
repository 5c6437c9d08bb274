//! What a client says before its body: method, path, query, Accept, Content-Type, one per line.
#![no_main]

use apiserver::http::negotiate::{self, Endpoint};
use apiserver::http::query::{Query, WriteOptions};
use apiserver::http::request_info::RequestInfo;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let Ok(method) = http::Method::from_bytes(line().as_bytes()) else { return };
    let (path, query) = (line(), Query::parse(line()));
    if let Ok(info) = RequestInfo::new(&method, path, &query) {
        assert!(!matches!(&*info.verb, "get" | "list" | "watch") || !info.is_mutating());
        info.is_long_running();
    }
    for kind in ["CreateOptions", "UpdateOptions", "PatchOptions"] {
        let _ = WriteOptions::parse(&query, kind, kind == "PatchOptions");
    }
    let accept = line();
    for endpoint in [Endpoint::Objects, Endpoint::Watch, Endpoint::Plain] {
        let _ = negotiate::form(accept, endpoint);
    }
    let _ = (negotiate::discovery_form(accept), negotiate::accepts_gzip(accept));
    let warning = negotiate::warning_header(accept);
    assert!(http::HeaderValue::from_str(&warning).is_ok(), "{warning:?}");
    let content_type = line();
    let _ = (negotiate::body_encoding(content_type, true), negotiate::patch_type(content_type, true));
});
