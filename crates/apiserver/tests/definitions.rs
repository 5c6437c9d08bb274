//! The definitions of Kubernetes' own kinds are k8s-openapi's, word for word.
//!
//! `UPDATE_GOLDEN=1 cargo test -p apiserver --test definitions` writes them anew, after an update of k8s-openapi or for a
//! new kind. The program reads the file instead of holding the code that makes it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test may ask the environment

use std::path::Path;

use k8s_openapi::api::{
    apps::v1 as apps, authentication::v1 as authentication, authorization::v1 as authorization,
    autoscaling::v1 as autoscaling, autoscaling::v2 as autoscaling2, batch::v1 as batch,
    coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery, events::v1 as events,
    networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac, scheduling::v1 as scheduling,
    storage::v1 as storage,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::schemars::generate::SchemaSettings;

/// One definition a line, `NAME JSON`, of everything that these types refer to.
fn definitions() -> String {
    let mut generator = SchemaSettings::openapi3().into_generator();
    macro_rules! include {
        ($($type:ty),* $(,)?) => { $( generator.subschema_for::<$type>(); )* };
    }
    include! {
        apps::ControllerRevision, apps::DaemonSet, apps::Deployment, apps::ReplicaSet, apps::StatefulSet,
        authentication::SelfSubjectReview, authentication::TokenRequest, authentication::TokenReview,
        authorization::LocalSubjectAccessReview, authorization::SelfSubjectAccessReview,
        authorization::SelfSubjectRulesReview, authorization::SubjectAccessReview,
        autoscaling::HorizontalPodAutoscaler, autoscaling::Scale, autoscaling2::HorizontalPodAutoscaler, batch::CronJob, batch::Job, coordination::Lease,
        core::Binding, core::ConfigMap, core::Endpoints, core::Event, core::LimitRange, core::Namespace, core::Node,
        core::PersistentVolume, core::PersistentVolumeClaim, core::Pod, core::PodTemplate,
        core::ReplicationController, core::ResourceQuota, core::Secret, core::Service, core::ServiceAccount,
        discovery::EndpointSlice, events::Event,
        networking::Ingress, networking::IngressClass, networking::NetworkPolicy,
        meta::DeleteOptions, meta::ListMeta, meta::ObjectMeta, meta::Status,
        policy::Eviction, policy::PodDisruptionBudget,
        rbac::ClusterRole, rbac::ClusterRoleBinding, rbac::Role, rbac::RoleBinding,
        scheduling::PriorityClass, storage::CSIDriver, storage::StorageClass,
    }
    let mut lines: Vec<_> = generator
        .take_definitions(true)
        .into_iter()
        .map(|(name, definition)| format!("{name} {definition}\n"))
        .collect();
    lines.sort();
    lines.concat()
}

#[test]
fn the_definitions_are_those_of_k8s_openapi() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/builtin/definitions.txt");
    let wanted = definitions();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    let differs = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
    assert_eq!(differs, None);
    assert_eq!(found.lines().count(), wanted.lines().count());
}

#[test]
fn every_built_in_kind_has_its_definition() {
    for kind in apiserver::builtin::kinds() {
        let components = kind.schema.components();
        assert!(components.contains_key(&kind.schema.definition), "{} is missing", kind.schema.definition);
    }
}
