//! Deletion, in all its forms.

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use manifest::keys::VM_FINALIZER;
use manifest::types::VirtualMachineInstance;
use serde_json::json;

use crate::world::{NAME, World, uid};

impl World {
    /// Waits for the instance, and has it run.
    pub async fn run_new(&self) -> VirtualMachineInstance {
        self.instance("an instance", |_| true).await;
        let running = self.run().await;
        self.shows("Running").await;
        running
    }

    pub async fn uid_of_namespace(&self) -> String {
        Api::<Namespace>::all(self.client.clone()).get("default").await.unwrap().metadata.uid.unwrap()
    }
}

#[tokio::test]
async fn a_machine_goes_when_its_instance_has_gone() {
    let world = World::start().await;
    for parameters in [DeleteParams::background(), DeleteParams::foreground()] {
        world.create("Always").await;
        world.run_new().await;
        world.delete_machine(&parameters).await;
        world.instance("deletion", |instance| instance.metadata.deletion_timestamp.is_some()).await;
        world.shows("Terminating").await;
        world.end_instance("Succeeded").await;
        world.let_go().await;
        world.no_instance().await;
        world.no_machine().await;
    }
    world.end().await;
}

#[tokio::test]
async fn a_machine_without_an_instance_goes_at_once() {
    let world = World::start().await;
    world.create("Halted").await;
    world.machine("a finalizer", |machine| machine.metadata.finalizers.is_some()).await;
    world.delete_machine(&DeleteParams::default()).await;
    world.no_machine().await;
    world.end().await;
}

#[tokio::test]
async fn an_instance_that_never_started_does_not_hold_its_machine() {
    let world = World::start().await;
    world.create("Always").await;
    world.instance("an instance", |_| true).await;
    world.delete_machine(&DeleteParams::default()).await;
    world.instance("deletion", |instance| instance.metadata.deletion_timestamp.is_some()).await;
    world.end_instance("Failed").await;
    world.let_go().await;
    world.no_instance().await;
    world.no_machine().await;
    world.end().await;
}

#[tokio::test]
async fn an_instance_can_outlive_its_machine() {
    let world = World::start().await;
    world.create("Always").await;
    let running = world.run_new().await;
    world.delete_machine(&DeleteParams::orphan()).await;
    world.no_machine().await;
    let orphan = world.instances.get(NAME).await.unwrap();
    assert_eq!(uid(&orphan), uid(&running));
    assert!(orphan.metadata.deletion_timestamp.is_none());
    assert_eq!(orphan.metadata.owner_references.unwrap_or_default(), []);
    assert!(!orphan.metadata.finalizers.unwrap().contains(&VM_FINALIZER.to_owned()));
    // It can be deleted, and taken over by a machine of that name.
    world.create("Always").await;
    let adopted = world.instance("an owner", |instance| instance.metadata.owner_references.is_some()).await;
    assert_eq!(uid(&adopted), uid(&running));
    world.end().await;
}

#[tokio::test]
async fn a_machine_that_is_forced_away_leaves_no_instance_behind() {
    let mut world = World::start().await;
    world.create("Always").await;
    world.run_new().await;
    // Whoever takes the finalizer off may do so while no controller looks.
    world.stop_controller().await;
    world.delete_machine(&DeleteParams::default()).await;
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    world.machines.patch(NAME, &PatchParams::default(), &patch).await.unwrap();
    world.no_machine().await;
    world.start_controller();
    world
        .instance("deletion by the collector", |instance| instance.metadata.deletion_timestamp.is_some())
        .await;
    world.end_instance("Failed").await;
    world.let_go().await;
    world.no_instance().await;
    world.end().await;
}

#[tokio::test]
async fn what_happened_while_no_controller_looked_is_made_up_for() {
    let mut world = World::start().await;
    world.create("Always").await;
    world.run_new().await;
    world.stop_controller().await;
    world.patch(json!({"spec": {"runStrategy": "Halted"}})).await;
    world.start_controller();
    world.shows("Stopping").await;
    // It is said before it is done.
    world.instance("deletion", |instance| instance.metadata.deletion_timestamp.is_some()).await;
    world.stop_controller().await;
    world.end_instance("Succeeded").await;
    world.let_go().await;
    world.start_controller();
    world.no_instance().await;
    world.shows("Stopped").await;
    world.stop_controller().await;
    world.delete_machine(&DeleteParams::default()).await;
    world.start_controller();
    world.no_machine().await;
    world.end().await;
}
