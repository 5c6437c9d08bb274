//! The `kubevirt.io/v1` types, split by reason to change.
//!
//! Every type is a plain struct whose fields carry their JSON name; an unset field is `None` or empty and is not
//! written. Nothing is defaulted here (see [`defaults`](crate::defaults)) and nothing is checked but the shape, so
//! words from a closed set, such as run strategies, are strings: the validation has to print what was written.
//!
//! Reading a type with serde directly ignores unknown fields, as a client of a newer server must;
//! [`decode_stream`](crate::decode_stream) refuses them.

mod data_volumes;
mod devices;
mod domain;
mod firmware;
mod migration_status;
mod networks;
mod status;
mod vm;
mod vmi;
mod volumes;

pub use data_volumes::*;
pub use devices::*;
pub use domain::*;
pub use firmware::*;
pub use migration_status::*;
pub use networks::*;
pub use status::*;
pub use vm::*;
pub use vmi::*;
pub use volumes::*;

mod resource {
    //! The two kinds as resources of the Kubernetes API, for typed clients.

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use k8s_openapi::{Metadata, NamespaceResourceScope, Resource};

    use super::{VirtualMachine, VirtualMachineInstance};

    macro_rules! resource {
        ($kind:ident, $plural:literal) => {
            impl Resource for $kind {
                const API_VERSION: &'static str = "kubevirt.io/v1";
                const GROUP: &'static str = "kubevirt.io";
                const KIND: &'static str = stringify!($kind);
                const VERSION: &'static str = "v1";
                const URL_PATH_SEGMENT: &'static str = $plural;
                type Scope = NamespaceResourceScope;
            }

            impl Metadata for $kind {
                type Ty = ObjectMeta;

                fn metadata(&self) -> &ObjectMeta {
                    &self.metadata
                }

                fn metadata_mut(&mut self) -> &mut ObjectMeta {
                    &mut self.metadata
                }
            }
        };
    }

    resource!(VirtualMachine, "virtualmachines");
    resource!(VirtualMachineInstance, "virtualmachineinstances");
}
