#![allow(clippy::unwrap_used)]
use std::os::unix::fs::FileTypeExt;

use super::*;

/// Not a test: the process that the tests start as the helper. The harness runs it on request only.
#[test]
#[ignore = "the helper process of other tests"]
fn helper_process() {
    let mut arguments = std::env::args_os().skip_while(|argument| argument != HELPER_COMMAND);
    if arguments.next().is_some() {
        std::process::exit(helper_main(arguments));
    }
}

fn helper() -> Helper {
    let arguments = [
        "accelerator::tests::helper_process",
        "--exact",
        "--ignored",
        "--nocapture",
    ];
    Helper {
        program: std::env::current_exe().unwrap(),
        arguments: arguments.map(str::to_owned).into(),
    }
}

fn request(cache: Option<(PathBuf, CacheUse)>) -> ProbeRequest {
    ProbeRequest {
        qemu: PathBuf::from("/usr/bin/qemu-system-x86_64"),
        machine: "q35".to_owned(),
        cpu_model: "host".to_owned(),
        run_as: RunAs::Caller,
        helper: helper(),
        cache,
    }
}

#[test]
fn the_choice_is_read_as_it_is_written() {
    for choice in [
        AcceleratorChoice::Auto,
        AcceleratorChoice::Kvm,
        AcceleratorChoice::Tcg,
    ] {
        assert_eq!(choice.to_string().parse(), Ok(choice));
    }
    let error = "xen".parse::<AcceleratorChoice>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "`xen` is not an accelerator: `auto`, `kvm` and `tcg` are"
    );
}

#[test]
fn tcg_asked_for_probes_nothing() {
    let mut request = request(None);
    request.helper.program = PathBuf::from("/nonexistent");
    let chosen = choose(AcceleratorChoice::Tcg, &request).unwrap();
    assert_eq!(chosen.kvm, None);
    assert_eq!(
        chosen.accelerator,
        Accelerator::Tcg {
            reason: "it was asked for".to_owned()
        }
    );
}
