//! Names, labels and metadata of objects: the rules, and upstream's words for who breaks them.

mod names;
mod object;

pub use names::{
    dns_1035_label_errors, dns_label_errors, dns_subdomain_errors, generated_name, label_value_errors,
    path_segment_errors, port_name_errors, qualified_name_errors,
};
pub use object::{
    OwnerReference, annotations, controller_of, is_controlled_by, is_deleting, label, labels, name,
    namespace, owner_references, resource_version, uid,
};
pub(crate) use object::{validate, validate_labels, validate_selector, validate_update};
