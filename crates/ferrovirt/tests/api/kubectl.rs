//! Every kubectl of this machine, each in a namespace of its own.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use crate::server::{DEADLINE, Outcome, World, finish, finish_with_input, kubectls};

/// One kubectl and the namespace that it works in.
pub struct Kubectl<'a> {
    world: &'a World,
    program: PathBuf,
    /// The namespace of every command.
    pub namespace: &'static str,
    /// Whether this is the old one (1.20), which knows fewer commands and validates by itself.
    pub old: bool,
}

/// All of them, in namespaces that exist.
#[track_caller]
pub fn each(world: &World) -> Vec<Kubectl<'_>> {
    let mut found = Vec::new();
    for program in kubectls() {
        let old = program.ends_with("kubectl-1.20");
        let kubectl = Kubectl { world, program, namespace: if old { "old" } else { "new" }, old };
        kubectl.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {}}}}}",
            kubectl.namespace
        ));
        found.push(kubectl);
    }
    found
}

impl Kubectl<'_> {
    /// A command whose arguments are the words of `line`.
    pub fn command(&self, line: &str) -> Command {
        let arguments = ["-n", self.namespace].into_iter().chain(line.split_whitespace());
        let mut command = self.world.kubectl_of(&self.program, arguments);
        // Its own cache of discovery: one must not profit from what the other has asked for.
        command.env("KUBECACHEDIR", self.world.path(self.namespace));
        command
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(&self, line: &str) -> Outcome {
        finish(self.command(line))
    }

    /// Runs it with one more argument, which may hold spaces.
    #[track_caller]
    pub fn run_with(&self, line: &str, argument: &str) -> Outcome {
        let mut command = self.command(line);
        command.arg(argument);
        finish(command)
    }

    /// What it prints; it must succeed.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        self.run(line).succeeded().stdout
    }

    /// What it complains of; it must fail.
    #[track_caller]
    pub fn fails(&self, line: &str) -> String {
        self.run(line).failed().stderr
    }

    /// Runs it with `input` for `-f -`.
    #[track_caller]
    pub fn feed(&self, line: &str, input: &str) -> Outcome {
        // The old one takes what begins with a brace for JSON.
        finish_with_input(self.command(line), &format!("---\n{input}"))
    }

    /// Applies `text`, which must succeed.
    #[track_caller]
    pub fn apply(&self, text: &str) -> String {
        self.feed("apply -f -", text).succeeded().stdout
    }

    /// A part of one object, as `jsonpath` prints it.
    #[track_caller]
    pub fn field(&self, object: &str, path: &str) -> String {
        self.ok(&format!("get {object} -o jsonpath={{{path}}}"))
    }

    /// The names of all objects of a kind.
    #[track_caller]
    pub fn names(&self, resource: &str) -> Vec<String> {
        let mut names: Vec<_> =
            self.ok(&format!("get {resource} -o name")).lines().map(str::to_owned).collect();
        // Each namespace has this one, whether it was made yet or not.
        names.retain(|name| name != "configmap/kube-root-ca.crt");
        names
    }

    /// Starts it and leaves it running.
    #[track_caller]
    pub fn start(&self, line: &str) -> Background {
        let mut child = self.command(line).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let pipe = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Background { child, lines, seen: Vec::new() }
    }
}

/// A kubectl that runs beside the test, ended with this value.
pub struct Background {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Background {
    /// The next line that it prints, its words parted by one space.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let deadline = Instant::now() + DEADLINE;
        let line = self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .unwrap_or_else(|error| panic!("no further line ({error}); seen:\n{}", self.seen.join("\n")));
        self.seen.push(line.clone());
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asserts that each of `parts` is in `text`.
#[track_caller]
pub fn holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// The lines of a table, their words parted by one space.
pub fn rows(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}
