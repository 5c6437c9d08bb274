//! Where kernels come from: tags that move and vanish, and Secrets that are missing, wrong and right.

use serde_json::{Value, json};

use crate::command_line::command;
use crate::harness::Fixtures;
use crate::real_registry::{PASSWORD, RealRegistry, USER};
use crate::room::{Boot, Room, instance, machine};
use crate::server::finish;

fn synchronized_reason(vmi: &Value) -> &str {
    let conditions = vmi["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == "Synchronized"));
    found.and_then(|condition| condition["reason"].as_str()).unwrap_or_default()
}

#[test]
fn a_restart_boots_what_the_tag_now_holds() {
    let room = Room::new();
    let image = room.reference("kernels/latest");
    room.push(&image, "vmlinuz");
    room.apply(&machine("dev", "Always", &Boot { image: &image, policy: "Always", guest: "hang" }));
    room.wait_for_status("dev", "Running");
    let first = room.get("vmi/dev");
    assert_eq!(
        first["metadata"]["annotations"]["ferrovirt.dev/kernel-version"],
        Fixtures::version("vmlinuz")
    );
    assert!(first["metadata"]["annotations"]["ferrovirt.dev/kernel-changed"].is_null());
    let wait_for_last_boot = |version: &str| {
        room.wait("vm/dev", "knows its last boot", |vm| {
            let last = vm["metadata"]["annotations"]["ferrovirt.dev/last-boot"].as_str().unwrap_or_default();
            last.contains(version)
        });
    };
    wait_for_last_boot(&Fixtures::version("vmlinuz"));

    room.push(&image, "vmlinuz-other");
    room.put("dev", "restart", &json!({})).succeeded();
    let second = room.wait("vmi/dev", "boots the other kernel", |vmi| {
        vmi["status"]["phase"] == "Running" && vmi["metadata"]["uid"] != first["metadata"]["uid"]
    });
    let annotations = &second["metadata"]["annotations"];
    assert_eq!(annotations["ferrovirt.dev/kernel-version"], Fixtures::version("vmlinuz-other"));
    assert_eq!(annotations["ferrovirt.dev/kernel-changed"], "true");
    room.wait_for_console("dev", &format!("guest: kernel {}", Fixtures::version("vmlinuz-other")));

    wait_for_last_boot(&Fixtures::version("vmlinuz-other"));
    room.put("dev", "restart", &json!({})).succeeded();
    room.wait("vmi/dev", "boots it again", |vmi| {
        vmi["status"]["phase"] == "Running"
            && vmi["metadata"]["uid"] != second["metadata"]["uid"]
            && vmi["metadata"]["annotations"]["ferrovirt.dev/kernel-changed"] == "false"
    });
    room.kubectl(&["delete", "vm", "dev"]);
    room.wait_until_empty();
}

#[test]
fn a_tag_that_is_not_there_is_told_and_its_machine_can_be_deleted() {
    let room = Room::new();
    let image = room.reference("kernels/missing:1");
    room.apply(&machine("lost", "Always", &Boot { image: &image, policy: "Always", guest: "hang" }));
    room.wait("vm/lost", "cannot pull", |vm| {
        matches!(vm["status"]["printableStatus"].as_str(), Some("ErrImagePull" | "ImagePullBackOff"))
    });
    let vmi = room.get("vmi/lost");
    assert_eq!(vmi["status"]["phase"], "Scheduling");
    assert!(matches!(synchronized_reason(&vmi), "ErrImagePull" | "ImagePullBackOff"), "{vmi}");
    let pulling = format!("Normal Pulling Pulling image \"{image}\"");
    for event in [&pulling, "Warning Failed Failed to pull image"] {
        room.wait_for_event("Pod", &room.pod_of("lost"), event);
    }

    // It appears, and the machine boots without a word from the user.
    room.push(&image, "vmlinuz");
    room.wait_for_status("lost", "Running");
    room.kubectl(&["delete", "vm", "lost"]);
    room.wait_until_empty();
}

#[test]
fn a_tag_that_vanishes_is_missed_by_the_next_boot_only() {
    let room = Room::new();
    let image = room.reference("kernels/gone:1");
    room.push(&image, "vmlinuz");
    room.apply(&machine("dev", "Always", &Boot { image: &image, policy: "Always", guest: "hang" }));
    let first = room.wait_for_phase("vmi/dev", "Running")["metadata"]["uid"].clone();
    room.registry.remove_tag("kernels/gone", "1");
    room.put("dev", "restart", &json!({})).succeeded();
    room.wait("vm/dev", "cannot pull", |vm| {
        matches!(vm["status"]["printableStatus"].as_str(), Some("ErrImagePull" | "ImagePullBackOff"))
    });
    let waiting = room.get("vmi/dev");
    assert_eq!(waiting["status"]["phase"], "Scheduling", "{}", waiting["status"]);
    assert_ne!(waiting["metadata"]["uid"], first);
    room.push(&image, "vmlinuz-other");
    room.wait_for_status("dev", "Running");
    let second = room.get("vmi/dev");
    assert_eq!(second["metadata"]["uid"], waiting["metadata"]["uid"], "it waited");
    assert_eq!(
        second["metadata"]["annotations"]["ferrovirt.dev/kernel-version"],
        Fixtures::version("vmlinuz-other")
    );
    room.kubectl(&["delete", "vm", "dev"]);
    room.wait_until_empty();
}

/// KubeVirt's user guide has it, with a Secret whose name is a policy and which nobody has made.
#[test]
fn the_machine_of_the_documentation_boots_when_it_is_told_to() {
    let room = Room::new();
    let image = room.reference("vmi_ext_boot/kernel_initrd_binaries_container:latest");
    room.push(&image, "vmlinuz");
    let manifest = include_str!("../../../manifest/tests/fixtures/kernel-boot.yaml");
    let here = format!("{}/vmi_ext_boot/", room.registry.host());
    room.kubectl_with_input(&["apply", "-f", "-"], &manifest.replace("vmi_ext_boot/", &here));
    let name = "ext-kernel-boot-vm";
    room.wait_for_status(name, "Stopped");
    room.put(name, "start", &json!({})).succeeded();
    room.wait_for_status(name, "Running");
    room.wait_for_console(name, "Linux version");
    let told = room.events("Pod", &room.pod_of(name));
    assert!(told.iter().any(|event| event.contains("FailedToRetrieveImagePullSecret")), "{told:?}");
    room.kubectl(&["delete", "vm", name]);
    room.wait_until_empty();
}

#[test]
fn never_and_a_path_that_is_not_there() {
    let room = Room::new();
    let image = room.reference("kernels/never:1");
    room.apply(&instance("never", &Boot { image: &image, policy: "Never", guest: "hang" }));
    let waiting = |pod: &Value| pod.to_string().contains("ErrImageNeverPull");
    room.wait("vmi/never", "is scheduling", |vmi| vmi["status"]["phase"] == "Scheduling");
    room.wait(&format!("pod/{}", room.pod_of("never")), "may not pull", waiting);
    // Its instance has no condition of that, as in KubeVirt; who asks what is wrong is told.
    let why = format!("Container image \"{image}\" is not present with pull policy of Never");
    room.wait_for_event("Pod", &room.pod_of("never"), &format!("Warning ErrImageNeverPull {why}"));
    let described = finish(command(&room, "describe vmi never")).succeeded().stdout;
    assert!(described.contains(&format!("ErrImageNeverPull   {why}")), "{described}");
    room.kubectl(&["delete", "vmi", "never"]);

    room.push(&image, "vmlinuz");
    let mut vmi = instance("astray", &Boot { image: &image, policy: "", guest: "hang" });
    vmi["spec"]["domain"]["firmware"]["kernelBoot"]["container"]["kernelPath"] = json!("/boot/vmlinux-wrong");
    room.apply(&vmi);
    let astray = room.wait("vmi/astray", "tells what is wrong", |vmi| !synchronized_reason(vmi).is_empty());
    assert_eq!(astray["status"]["phase"], "Scheduled", "{}", astray["status"]);
    assert_eq!(synchronized_reason(&astray), "Synchronizing with the Domain failed.");
    assert!(astray["status"].to_string().contains("/boot/vmlinux-wrong"), "{}", astray["status"]);
    room.wait_for_event("VirtualMachineInstance", "astray", "Warning SyncFailed");
    room.kubectl(&["delete", "vmi", "astray"]);
    room.wait_until_empty();
}

#[test]
fn secrets_are_missing_then_wrong_then_right() {
    let room = Room::with_registry(RealRegistry::start_with_password());
    let image = room.reference("kernels/private:1");
    let auth = room.world.file("auth.json", "{}");
    let auth = auth.to_str().unwrap();
    let login = |password: &str| {
        let encoded =
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{USER}:{password}"));
        json!({"auths": {room.registry.host(): {"auth": encoded}}}).to_string()
    };
    room.world.file("auth.json", login(PASSWORD));
    room.world.build_image(&image, "vmlinuz", &["--push", "--authfile", auth]);

    let mut vmi = instance("private", &Boot { image: &image, policy: "Always", guest: "hang" });
    vmi["spec"]["domain"]["firmware"]["kernelBoot"]["container"]["imagePullSecret"] = json!("pull");
    room.apply(&vmi);
    room.wait("vmi/private", "cannot pull", |vmi| !synchronized_reason(vmi).is_empty());
    let pod = room.pod_of("private");
    room.wait_for_event("Pod", &pod, "FailedToRetrieveImagePullSecret");

    let create = |password: &str| {
        room.kubectl(&["delete", "secret", "pull", "--ignore-not-found"]);
        let (user, password) = (format!("--docker-username={USER}"), format!("--docker-password={password}"));
        let server = format!("--docker-server={}", room.registry.host());
        room.kubectl(&["create", "secret", "docker-registry", "pull", &server, &user, &password]);
    };
    create("wrong");
    room.wait_for_event("Pod", &pod, "does not accept the credentials from pull secret `pull`");
    create(PASSWORD);
    room.wait_for_phase("vmi/private", "Running");
    let all = room.kubectl(&["get", "events,pods,vmi", "-o", "yaml"]).stdout;
    assert!(!all.contains(PASSWORD), "a password is in the open");
    room.kubectl(&["delete", "vmi", "private"]);
    room.wait_until_empty();
}
