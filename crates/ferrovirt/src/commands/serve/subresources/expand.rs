//! A machine with everything written out that an instancetype and a preference would supply. There are neither here, so
//! it is as it was.

use apiserver::http::extension::{self, Response};
use apiserver::status::{ApiError, Cause, Details};
use controllers::vm::requests::Refusal;
use http::StatusCode;
use kube::Api;
use kube::core::{ApiResource, DynamicObject};
use manifest::types::VirtualMachine;

use super::{Machine, read_value, refused};

/// `GET …/virtualmachines/NAME/expand-spec`: that of a machine which is stored.
pub async fn stored(machine: &Machine<'_>) -> Result<Response, ApiError> {
    let kind = ApiResource::erase::<VirtualMachine>(&());
    let machines: Api<DynamicObject> = Api::namespaced_with(machine.server.clone(), machine.namespace, &kind);
    let found = super::named(&machines, machine.name).await.map_err(|error| machine.failed(&error))?;
    let found = found.ok_or_else(|| refused(Refusal::not_found(machine.name)))?;
    let document = serde_json::to_value(&found).map_err(ApiError::internal)?;
    Ok(extension::json(StatusCode::OK, &document))
}

/// `PUT …/expand-vm-spec`: that of a machine which is sent.
pub fn given(body: &[u8], namespace: &str) -> Result<Response, ApiError> {
    let document = read_value(body)?.ok_or_else(|| ApiError::bad_request("empty request body"))?;
    let machine = manifest::decode_vm(&document).map_err(|faults| {
        let causes = faults.into_iter().map(|fault| Cause { message: fault.message, ..Cause::default() });
        let details = Details { causes: causes.collect(), ..Details::default() };
        let mut error = ApiError::bad_request("Object is not a valid VirtualMachine");
        error.details = Some(Box::new(details));
        error
    })?;
    let own = machine.metadata.namespace.as_deref().unwrap_or_default();
    if !own.is_empty() && own != namespace {
        return Err(ApiError::bad_request(format!("VM namespace must be empty or {namespace}")));
    }
    let missing = [("instancetype", &machine.spec.instancetype), ("preference", &machine.spec.preference)];
    if let Some((field, _)) = missing.into_iter().find(|(_, matcher)| matcher.is_some()) {
        return Err(ApiError::bad_request(format!("spec.{field} is not supported by ferrovirt")));
    }
    Ok(extension::json(StatusCode::OK, &document))
}
