pub mod access;
pub mod admission;
