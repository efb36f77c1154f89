//! How a machine's instructions are run.

/// How a machine's instructions are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceleration {
    /// By the processor itself.
    Kvm,
    /// By QEMU's translator, ten to thirty times slower.
    Emulation {
        /// Why not by the processor, for a warning.
        reason: String,
    },
}
