//! An API server in this process with KubeVirt's two kinds: with the defaults that its webhooks fill in, and none of the
//! rules.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use apiserver::builtin;
use apiserver::kind::{Admission, Hooks, Kind, Kinds, Names, Operation, SchemaSource, Scope};
use apiserver::server::{ApiServer, Options};
use apiserver::status::ApiError;
use manifest::types::{VirtualMachine, VirtualMachineInstance};
use manifest::{DefaultsContext, Time, openapi};
use serde_json::{Value, json};

/// Annotation on an instance that may not be made.
pub const REFUSED: &str = "test/refused";

/// Starts one with everything in `directory`; its audit log is `audit.log` there.
pub async fn start(directory: &Path) -> ApiServer {
    let options = Options {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        audit_log: Some(directory.join("audit.log")),
        ..Options::new(directory.join("state"), "v1.33.0+ferrovirt.0.1.0")
    };
    let kinds = Kinds::new(builtin::kinds().into_iter().chain(kinds()));
    ApiServer::start(options, kinds).await.unwrap()
}

fn kinds() -> [Kind; 2] {
    let kind = |kind: &str, plural: &str, schema| Kind {
        hooks: Arc::new(Filling),
        ..Kind::new("kubevirt.io", &["v1"], Names::new(kind, plural), Scope::Namespaced, schema)
    };
    let machine = SchemaSource::new(openapi::VIRTUAL_MACHINE, openapi::virtual_machine);
    let instance = SchemaSource::new(openapi::VIRTUAL_MACHINE_INSTANCE, openapi::virtual_machine_instance);
    [
        Kind { has_status: true, ..kind("VirtualMachine", "virtualmachines", machine) },
        kind("VirtualMachineInstance", "virtualmachineinstances", instance),
    ]
}

/// Fills in what a new machine or instance is stored with; refuses instances that carry [`REFUSED`].
struct Filling;

impl Hooks for Filling {
    fn default(
        &self,
        request: &Admission<'_>,
        object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if request.operation != Operation::Create {
            return Ok(());
        }
        let context = DefaultsContext {
            architecture: "amd64".to_owned(),
            firmware_uuid: uuid::Uuid::from_u128(1),
            firmware_serial: uuid::Uuid::from_u128(2),
        };
        if object["kind"] == "VirtualMachine" {
            let mut machine: VirtualMachine = serde_json::from_value(object.clone()).unwrap();
            manifest::apply_vm(&mut machine, &context);
            *object = serde_json::to_value(machine).unwrap();
            object["status"] = json!({"printableStatus": "Stopped"});
            return Ok(());
        }
        if object["metadata"]["annotations"].get(REFUSED).is_some() {
            return Err(ApiError::new(422, "Invalid", "admission webhook \"x\" denied the request: no"));
        }
        let mut instance: VirtualMachineInstance = serde_json::from_value(object.clone()).unwrap();
        manifest::apply_vmi(&mut instance, &context);
        manifest::initial_status(&mut instance, Time(request.now));
        *object = serde_json::to_value(instance).unwrap();
        Ok(())
    }
}
