//! Tables for the types that Kubernetes defines and this crate borrows from k8s-openapi.
//!
//! Those types read themselves, but drop what they do not know; the tables make an unknown field in an affinity or in
//! `metadata` a fault like any other.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, DownwardAPIVolumeFile, ExecAction, HTTPGetAction, HTTPHeader, NodeAffinity, NodeSelector,
    NodeSelectorRequirement, NodeSelectorTerm, ObjectFieldSelector, PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource, PodAffinity, PodAffinityTerm, PodAntiAffinity, PodDNSConfig,
    PodDNSConfigOption, PreferredSchedulingTerm, ResourceFieldSelector, TCPSocketAction, Toleration,
    TopologySpreadConstraint, TypedLocalObjectReference, TypedObjectReference, VolumeResourceRequirements,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    FieldsV1, LabelSelector, LabelSelectorRequirement, ManagedFieldsEntry, ObjectMeta, OwnerReference, Time,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::schema::{Absent, Described, Field, Node, ObjectType, presence};
use quantity::Quantity;

macro_rules! borrowed {
    ($( $name:ident { $( $presence:ident $json:literal: $ty:ty, )* } )*) => {
        $(
            impl Described for $name {
                const NODE: &'static Node = &Node::Object(&ObjectType {
                    name: stringify!($name),
                    documentation: "",
                    fields: &[
                        $( Field {
                            name: $json,
                            presence: presence!($presence),
                            node: <$ty as Described>::NODE,
                            documentation: "",
                        }, )*
                    ],
                });
            }

            impl Absent for $name {}
        )*
    };
}

impl Described for FieldsV1 {
    const NODE: &'static Node = &Node::AnyObject;
}

borrowed! {
    ObjectMeta {
        optional "annotations": BTreeMap<String, String>,
        optional "creationTimestamp": Time,
        optional "deletionGracePeriodSeconds": i64,
        optional "deletionTimestamp": Time,
        optional "finalizers": Vec<String>,
        optional "generateName": String,
        optional "generation": i64,
        optional "labels": BTreeMap<String, String>,
        optional "managedFields": Vec<ManagedFieldsEntry>,
        optional "name": String,
        optional "namespace": String,
        optional "ownerReferences": Vec<OwnerReference>,
        optional "resourceVersion": String,
        optional "selfLink": String,
        optional "uid": String,
    }
    Affinity {
        optional "nodeAffinity": NodeAffinity,
        optional "podAffinity": PodAffinity,
        optional "podAntiAffinity": PodAntiAffinity,
    }
    Toleration {
        optional "effect": String,
        optional "key": String,
        optional "operator": String,
        optional "tolerationSeconds": i64,
        optional "value": String,
    }
    TopologySpreadConstraint {
        optional "labelSelector": LabelSelector,
        optional "matchLabelKeys": Vec<String>,
        required "maxSkew": i32,
        optional "minDomains": i32,
        optional "nodeAffinityPolicy": String,
        optional "nodeTaintsPolicy": String,
        required "topologyKey": String,
        required "whenUnsatisfiable": String,
    }
    PodDNSConfig {
        optional "nameservers": Vec<String>,
        optional "options": Vec<PodDNSConfigOption>,
        optional "searches": Vec<String>,
    }
    ExecAction {
        optional "command": Vec<String>,
    }
    HTTPGetAction {
        optional "host": String,
        optional "httpHeaders": Vec<HTTPHeader>,
        optional "path": String,
        required "port": IntOrString,
        optional "scheme": String,
    }
    TCPSocketAction {
        optional "host": String,
        required "port": IntOrString,
    }
    PersistentVolumeClaimVolumeSource {
        required "claimName": String,
        optional "readOnly": bool,
    }
    DownwardAPIVolumeFile {
        optional "fieldRef": ObjectFieldSelector,
        optional "mode": i32,
        required "path": String,
        optional "resourceFieldRef": ResourceFieldSelector,
    }
    PersistentVolumeClaimSpec {
        optional "accessModes": Vec<String>,
        optional "dataSource": TypedLocalObjectReference,
        optional "dataSourceRef": TypedObjectReference,
        optional "resources": VolumeResourceRequirements,
        optional "selector": LabelSelector,
        optional "storageClassName": String,
        optional "volumeAttributesClassName": String,
        optional "volumeMode": String,
        optional "volumeName": String,
    }
    LabelSelector {
        optional "matchExpressions": Vec<LabelSelectorRequirement>,
        optional "matchLabels": BTreeMap<String, String>,
    }
    VolumeResourceRequirements {
        optional "limits": BTreeMap<String, Quantity>,
        optional "requests": BTreeMap<String, Quantity>,
    }
    TypedLocalObjectReference {
        optional "apiGroup": String,
        required "kind": String,
        required "name": String,
    }
    TypedObjectReference {
        optional "apiGroup": String,
        required "kind": String,
        required "name": String,
        optional "namespace": String,
    }
    ManagedFieldsEntry {
        optional "apiVersion": String,
        optional "fieldsType": String,
        optional "fieldsV1": FieldsV1,
        optional "manager": String,
        optional "operation": String,
        optional "subresource": String,
        optional "time": Time,
    }
    OwnerReference {
        required "apiVersion": String,
        optional "blockOwnerDeletion": bool,
        optional "controller": bool,
        required "kind": String,
        required "name": String,
        required "uid": String,
    }
    NodeAffinity {
        optional "preferredDuringSchedulingIgnoredDuringExecution": Vec<PreferredSchedulingTerm>,
        optional "requiredDuringSchedulingIgnoredDuringExecution": NodeSelector,
    }
    PodAffinity {
        optional "preferredDuringSchedulingIgnoredDuringExecution": Vec<WeightedPodAffinityTerm>,
        optional "requiredDuringSchedulingIgnoredDuringExecution": Vec<PodAffinityTerm>,
    }
    PodAntiAffinity {
        optional "preferredDuringSchedulingIgnoredDuringExecution": Vec<WeightedPodAffinityTerm>,
        optional "requiredDuringSchedulingIgnoredDuringExecution": Vec<PodAffinityTerm>,
    }
    PodDNSConfigOption {
        optional "name": String,
        optional "value": String,
    }
    HTTPHeader {
        required "name": String,
        required "value": String,
    }
    ObjectFieldSelector {
        optional "apiVersion": String,
        required "fieldPath": String,
    }
    ResourceFieldSelector {
        optional "containerName": String,
        optional "divisor": Quantity,
        required "resource": String,
    }
    LabelSelectorRequirement {
        required "key": String,
        required "operator": String,
        optional "values": Vec<String>,
    }
    PreferredSchedulingTerm {
        required "preference": NodeSelectorTerm,
        required "weight": i32,
    }
    NodeSelector {
        required "nodeSelectorTerms": Vec<NodeSelectorTerm>,
    }
    WeightedPodAffinityTerm {
        required "podAffinityTerm": PodAffinityTerm,
        required "weight": i32,
    }
    PodAffinityTerm {
        optional "labelSelector": LabelSelector,
        optional "matchLabelKeys": Vec<String>,
        optional "mismatchLabelKeys": Vec<String>,
        optional "namespaceSelector": LabelSelector,
        optional "namespaces": Vec<String>,
        required "topologyKey": String,
    }
    NodeSelectorTerm {
        optional "matchExpressions": Vec<NodeSelectorRequirement>,
        optional "matchFields": Vec<NodeSelectorRequirement>,
    }
    NodeSelectorRequirement {
        required "key": String,
        required "operator": String,
        optional "values": Vec<String>,
    }
}
