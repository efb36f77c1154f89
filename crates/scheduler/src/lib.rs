//! The scheduler: finds a node for every pod that has none.
//!
//! One task owns a picture of the cluster ([`cluster`]) that it keeps current change by change. It decides
//! ([`decide`]: [`filter`], [`score`], [`preempt`]) without waiting for anything, takes its decision for true at
//! once, and lets others write the binding. What is decided is a pure function of picture and pod.

mod affinity;
mod cluster;
mod decide;
mod filter;
mod node;
mod pending;
mod pod;
mod preempt;
mod quantity;
mod run;
mod score;
#[cfg(test)]
mod testing;

pub use run::run;
