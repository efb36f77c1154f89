//! The keys under which the agent leaves a pod's identity in the runtime, so that it finds its pods again.

/// The pod's name.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
/// The pod's namespace.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The pod's UID.
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
/// The container's name.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// The file on the node that holds a container's last words.
pub(crate) const TERMINATION_FILE: &str = "cluster/termination-message-file";
/// `File` or `FallbackToLogsOnError`.
pub(crate) const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// The seconds that the container is given to end.
pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
