//! The `VirtualMachineInstance` kind: one run of a machine, and everything its pod-level spec says.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, ExecAction, HTTPGetAction, PodDNSConfig, TCPSocketAction, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::domain::DomainSpec;
use super::networks::Network;
use super::status::VirtualMachineInstanceStatus;
use super::volumes::Volume;
use crate::schema::{Empty, object};

object! {
    /// One run of a virtual machine.
    pub struct VirtualMachineInstance {
        /// API version, `kubevirt.io/v1` or `kubevirt.io/v1alpha3`.
        optional api_version ("apiVersion"): String,
        /// Always `VirtualMachineInstance`.
        optional kind ("kind"): String,
        /// Name, namespace, labels and annotations.
        optional metadata ("metadata"): ObjectMeta,
        /// What is to run; immutable once created.
        required spec ("spec"): VirtualMachineInstanceSpec,
        /// What was last observed; written by the controller and the node.
        optional status ("status"): Option<VirtualMachineInstanceStatus>,
    }
}

object! {
    /// The machine itself and where and with what it runs.
    pub struct VirtualMachineInstanceSpec {
        /// The virtual hardware.
        required domain ("domain"): DomainSpec,
        /// CPU architecture of the guest: `amd64`, `arm64` or `s390x`; the cluster's own when unset.
        optional architecture ("architecture"): Option<String>,
        /// Host name of the guest, a DNS label; made from the instance's name when unset.
        optional hostname ("hostname"): Option<String>,
        /// DNS subdomain of the guest.
        optional subdomain ("subdomain"): Option<String>,
        /// Seconds between the power button and the kill on deletion; 30 when unset, 0 kills at once.
        optional termination_grace_period_seconds ("terminationGracePeriodSeconds"): Option<i64>,
        /// What a node drain does: `None`, `LiveMigrate`, `LiveMigrateIfPossible` or `External`.
        optional eviction_strategy ("evictionStrategy"): Option<String>,
        /// `Paused` starts the machine with its CPUs stopped.
        optional start_strategy ("startStrategy"): Option<String>,
        /// Labels that the node must carry.
        optional node_selector ("nodeSelector"): BTreeMap<String, String>,
        /// Scheduling rules relative to nodes and other pods.
        optional affinity ("affinity"): Option<Affinity>,
        /// Node taints that are accepted.
        optional tolerations ("tolerations"): Vec<Toleration>,
        /// How instances spread over failure domains.
        optional topology_spread_constraints ("topologySpreadConstraints"): Vec<TopologySpreadConstraint>,
        /// The scheduler to use; the cluster's default when unset.
        optional scheduler_name ("schedulerName"): Option<String>,
        /// Scheduling priority by the name of its class.
        optional priority_class_name ("priorityClassName"): Option<String>,
        /// Service account of the pod.
        optional service_account_name ("serviceAccountName"): Option<String>,
        /// Where the pod's resolver settings come from: `ClusterFirst` (also when unset),
        /// `ClusterFirstWithHostNet`, `Default` or `None`.
        optional dns_policy ("dnsPolicy"): Option<String>,
        /// Resolver settings merged with those that `dns_policy` chose.
        optional dns_config ("dnsConfig"): Option<PodDNSConfig>,
        /// Networks that interfaces of the same name connect to, 256 at most.
        optional networks ("networks"): Vec<Network>,
        /// Sources of the disks and filesystems of the same name, 256 at most.
        optional volumes ("volumes"): Vec<Volume>,
        /// Check whose failure ends the instance.
        optional liveness_probe ("livenessProbe"): Option<Probe>,
        /// Check whose failure takes the instance out of service.
        optional readiness_probe ("readinessProbe"): Option<Probe>,
        /// Keys and passwords handed to the guest, 256 at most.
        optional access_credentials ("accessCredentials"): Vec<AccessCredential>,
        /// Claims for devices that dynamic resource allocation hands out.
        optional resource_claims ("resourceClaims"): Vec<VirtualMachineInstanceResourceClaim>,
        /// Volumes for the machinery around the guest; the guest does not see them.
        optional utility_volumes ("utilityVolumes"): Vec<UtilityVolume>,
    }
}

object! {
    /// A periodic check of the guest, by exactly one of four means.
    pub struct Probe {
        /// Runs a command in the guest through its agent.
        optional exec ("exec"): Option<ExecAction>,
        /// Asks whether the guest agent answers.
        optional guest_agent_ping ("guestAgentPing"): Option<Empty>,
        /// Expects a success answer to an HTTP request.
        optional http_get ("httpGet"): Option<HTTPGetAction>,
        /// Expects a TCP connection to open.
        optional tcp_socket ("tcpSocket"): Option<TCPSocketAction>,
        /// Seconds from start to the first check.
        optional initial_delay_seconds ("initialDelaySeconds"): Option<i32>,
        /// Seconds until a check counts as failed; 1 when unset.
        optional timeout_seconds ("timeoutSeconds"): Option<i32>,
        /// Seconds between checks; 10 when unset.
        optional period_seconds ("periodSeconds"): Option<i32>,
        /// Successes in a row that make the probe pass; 1 when unset.
        optional success_threshold ("successThreshold"): Option<i32>,
        /// Failures in a row that make the probe fail; 3 when unset.
        optional failure_threshold ("failureThreshold"): Option<i32>,
    }
}

object! {
    /// One credential for the guest: exactly one of a public key or a password.
    pub struct AccessCredential {
        /// SSH public keys.
        optional ssh_public_key ("sshPublicKey"): Option<SshPublicKeyAccessCredential>,
        /// Passwords of guest users.
        optional user_password ("userPassword"): Option<UserPasswordAccessCredential>,
    }
}

object! {
    /// SSH public keys and the way into the guest.
    pub struct SshPublicKeyAccessCredential {
        /// Where the keys come from.
        required source ("source"): AccessCredentialSource,
        /// How they reach the guest.
        required propagation_method ("propagationMethod"): SshPublicKeyPropagationMethod,
    }
}

object! {
    /// Where a credential comes from.
    pub struct AccessCredentialSource {
        /// A Secret of the same namespace.
        optional secret ("secret"): Option<AccessCredentialSecretSource>,
    }
}

object! {
    /// A Secret that holds credentials.
    pub struct AccessCredentialSecretSource {
        /// Name of the Secret.
        required secret_name ("secretName"): String,
    }
}

object! {
    /// How SSH public keys reach the guest; exactly one.
    pub struct SshPublicKeyPropagationMethod {
        /// By the cloud-init ConfigDrive volume.
        optional config_drive ("configDrive"): Option<Empty>,
        /// By the cloud-init NoCloud volume.
        optional no_cloud ("noCloud"): Option<Empty>,
        /// By the guest agent, while the guest runs.
        optional qemu_guest_agent ("qemuGuestAgent"): Option<QemuGuestAgentSshPropagation>,
    }
}

object! {
    /// Key propagation by the guest agent.
    pub struct QemuGuestAgentSshPropagation {
        /// Guest users whose `authorized_keys` are managed. An empty list is kept as such, the validation
        /// tells it from an absent one.
        required users ("users"): Option<Vec<String>>,
    }
}

object! {
    /// Guest passwords and the way into the guest.
    pub struct UserPasswordAccessCredential {
        /// Where the passwords come from: one key for each user.
        required source ("source"): AccessCredentialSource,
        /// How they reach the guest.
        required propagation_method ("propagationMethod"): UserPasswordPropagationMethod,
    }
}

object! {
    /// How passwords reach the guest.
    pub struct UserPasswordPropagationMethod {
        /// By the guest agent, while the guest runs.
        optional qemu_guest_agent ("qemuGuestAgent"): Option<Empty>,
    }
}

object! {
    /// A device claim that GPUs, host devices and networks refer to.
    pub struct VirtualMachineInstanceResourceClaim {
        /// Name that the devices refer to.
        required name ("name"): String,
        /// An existing claim of the same namespace.
        optional resource_claim_name ("resourceClaimName"): Option<String>,
        /// The template that a claim is created from.
        optional resource_claim_template_name ("resourceClaimTemplateName"): Option<String>,
    }
}

object! {
    /// A claim mounted for the machinery around the guest.
    pub struct UtilityVolume {
        /// Name of the volume.
        required name ("name"): String,
        /// Name of the PersistentVolumeClaim.
        required claim_name ("claimName"): String,
        /// Mounts it read-only; `false` when unset.
        optional read_only ("readOnly"): Option<bool>,
        /// What the volume is for.
        optional type_ ("type"): Option<String>,
    }
}
