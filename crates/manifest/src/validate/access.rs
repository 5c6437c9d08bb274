//! Rules for keys and passwords handed to the guest.

use super::cause::{Causes, Path};
use super::not_too_many;
use crate::types::{AccessCredentialSource, SshPublicKeyAccessCredential, VirtualMachineInstanceSpec};

pub(super) fn check(spec: &VirtualMachineInstanceSpec, path: &Path, causes: &mut Causes) {
    let field = path.child("accessCredentials");
    not_too_many(&spec.access_credentials, &field, causes);
    for (index, credential) in spec.access_credentials.iter().enumerate() {
        let field = field.index(index);
        if let Some(key) = &credential.ssh_public_key {
            ssh_public_key(spec, key, &field, causes);
        }
        if let Some(password) = &credential.user_password {
            let field = field.child("userPassword");
            source(&password.source, &field, causes);
            let method = &password.propagation_method;
            exactly_one_method(&[method.qemu_guest_agent.is_some()], &field, causes);
        }
        if credential.ssh_public_key.is_some() == credential.user_password.is_some() {
            causes.invalid(&field, format!("{field} must have exactly one access credential type set"));
        }
    }
}

fn ssh_public_key(
    spec: &VirtualMachineInstanceSpec,
    key: &SshPublicKeyAccessCredential,
    credential: &Path,
    causes: &mut Causes,
) {
    let field = credential.child("sshPublicKey");
    let method = &key.propagation_method;
    let no_cloud = spec.volumes.iter().any(|volume| volume.cloud_init_no_cloud.is_some());
    let config_drive = spec.volumes.iter().any(|volume| volume.cloud_init_config_drive.is_some());
    let by_volume = [
        ("noCloud", method.no_cloud.is_some(), no_cloud),
        ("configDrive", method.config_drive.is_some(), config_drive),
    ];
    for (name, _, _) in by_volume.into_iter().filter(|(_, wanted, there)| *wanted && !there) {
        let message = format!(
            "{credential} requires a {name} volume to exist when the {name} propagationMethod is in use."
        );
        causes.invalid(&field.child("propagationMethod"), message);
    }
    if let Some(agent) = &method.qemu_guest_agent
        && agent.users.as_ref().is_none_or(Vec::is_empty)
    {
        let message = format!("{credential} requires at least one user to be present in the users list");
        causes.invalid(&field.child("propagationMethod.qemuGuestAgent.users"), message);
    }
    source(&key.source, &field, causes);
    let methods =
        [method.no_cloud.is_some(), method.config_drive.is_some(), method.qemu_guest_agent.is_some()];
    exactly_one_method(&methods, &field, causes);
}

fn source(source: &AccessCredentialSource, credential: &Path, causes: &mut Causes) {
    if source.secret.is_none() {
        let field = credential.child("source");
        causes.invalid(&field, format!("{field} must have exactly one source set"));
    }
}

fn exactly_one_method(methods: &[bool], credential: &Path, causes: &mut Causes) {
    if methods.iter().filter(|set| **set).count() != 1 {
        let field = credential.child("propagationMethod");
        causes.invalid(&field, format!("{field} must have exactly one propagationMethod set"));
    }
}
