//! When a machine runs: its run strategy, as the spec has it in one of two forms.

use manifest::types::VirtualMachineSpec;

/// When a machine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// Always: an instance that ends is followed by another.
    Always,
    /// Until it powers itself off: an instance that fails is followed by another.
    RerunOnFailure,
    /// When it is told to, until it ends or is told to stop.
    Manual,
    /// Not at all.
    Halted,
    /// Once: an instance that ends is kept.
    Once,
    /// It waits for a machine that migrates here.
    WaitAsReceiver,
    /// A word that is none of these; an object that is older than the rules may hold one.
    Unknown(String),
}

impl Strategy {
    /// The strategy that `spec` asks for: `running` is the older form, and neither means `Halted`.
    pub fn of(spec: &VirtualMachineSpec) -> Self {
        match (spec.running, spec.run_strategy.as_deref()) {
            (Some(true), _) => Self::Always,
            (Some(false), _) | (None, None) => Self::Halted,
            (None, Some(word)) => Self::from(word),
        }
    }

    /// The word for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Always => "Always",
            Self::RerunOnFailure => "RerunOnFailure",
            Self::Manual => "Manual",
            Self::Halted => "Halted",
            Self::Once => "Once",
            Self::WaitAsReceiver => "WaitAsReceiver",
            Self::Unknown(word) => word,
        }
    }
}

impl From<&str> for Strategy {
    fn from(word: &str) -> Self {
        match word {
            "Always" => Self::Always,
            "RerunOnFailure" => Self::RerunOnFailure,
            "Manual" => Self::Manual,
            "Halted" => Self::Halted,
            "Once" => Self::Once,
            "WaitAsReceiver" => Self::WaitAsReceiver,
            other => Self::Unknown(other.to_owned()),
        }
    }
}

impl std::fmt::Display for Strategy {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.as_str())
    }
}
