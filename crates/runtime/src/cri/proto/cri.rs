//! `runtime.v1` of the CRI (`k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`).

use std::collections::BTreeMap;

use prost::Message;

/// A request that names one sandbox or container.
#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ById {
    #[prost(string, tag = "1")]
    pub(in crate::cri) id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct Int64Value {
    #[prost(int64, tag = "1")]
    pub(in crate::cri) value: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct UInt64Value {
    #[prost(uint64, tag = "1")]
    pub(in crate::cri) value: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct VersionResponse {
    #[prost(string, tag = "2")]
    pub(in crate::cri) runtime_name: String,
    #[prost(string, tag = "3")]
    pub(in crate::cri) runtime_version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct StatusRequest {
    #[prost(bool, tag = "1")]
    pub(in crate::cri) verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) status: Option<RuntimeStatus>,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(in crate::cri) info: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    pub(in crate::cri) conditions: Vec<RuntimeCondition>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct RuntimeCondition {
    #[prost(string, tag = "1")]
    pub(in crate::cri) kind: String,
    #[prost(bool, tag = "2")]
    pub(in crate::cri) status: bool,
    #[prost(string, tag = "3")]
    pub(in crate::cri) reason: String,
    #[prost(string, tag = "4")]
    pub(in crate::cri) message: String,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct RuntimeConfigResponse {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) linux: Option<LinuxRuntimeConfiguration>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct LinuxRuntimeConfiguration {
    /// 0 systemd, 1 cgroupfs.
    #[prost(int32, tag = "1")]
    pub(in crate::cri) cgroup_driver: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub(in crate::cri) name: String,
    #[prost(string, tag = "2")]
    pub(in crate::cri) uid: String,
    #[prost(string, tag = "3")]
    pub(in crate::cri) namespace: String,
    #[prost(uint32, tag = "4")]
    pub(in crate::cri) attempt: u32,
}

/// Whose namespace is used.
pub(in crate::cri) mod mode {
    pub(in crate::cri) const POD: i32 = 0;
    pub(in crate::cri) const CONTAINER: i32 = 1;
    pub(in crate::cri) const NODE: i32 = 2;
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct NamespaceOption {
    #[prost(int32, tag = "1")]
    pub(in crate::cri) network: i32,
    #[prost(int32, tag = "2")]
    pub(in crate::cri) pid: i32,
    #[prost(int32, tag = "3")]
    pub(in crate::cri) ipc: i32,
}

/// Kinds of seccomp profiles.
pub(in crate::cri) mod profile {
    pub(in crate::cri) const RUNTIME_DEFAULT: i32 = 0;
    pub(in crate::cri) const UNCONFINED: i32 = 1;
    pub(in crate::cri) const LOCALHOST: i32 = 2;
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct SecurityProfile {
    #[prost(int32, tag = "1")]
    pub(in crate::cri) profile_type: i32,
    #[prost(string, tag = "2")]
    pub(in crate::cri) localhost_ref: String,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct LinuxSandboxSecurityContext {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) namespace_options: Option<NamespaceOption>,
    #[prost(bool, tag = "6")]
    pub(in crate::cri) privileged: bool,
    #[prost(message, optional, tag = "9")]
    pub(in crate::cri) seccomp: Option<SecurityProfile>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    pub(in crate::cri) cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    pub(in crate::cri) security_context: Option<LinuxSandboxSecurityContext>,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(in crate::cri) sysctls: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct DnsConfig {
    #[prost(string, repeated, tag = "1")]
    pub(in crate::cri) servers: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(in crate::cri) searches: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub(in crate::cri) options: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "2")]
    pub(in crate::cri) hostname: String,
    #[prost(string, tag = "3")]
    pub(in crate::cri) log_directory: String,
    #[prost(message, optional, tag = "4")]
    pub(in crate::cri) dns_config: Option<DnsConfig>,
    #[prost(btree_map = "string, string", tag = "6")]
    pub(in crate::cri) labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(in crate::cri) annotations: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub(in crate::cri) linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct VerboseById {
    #[prost(string, tag = "1")]
    pub(in crate::cri) id: String,
    #[prost(bool, tag = "2")]
    pub(in crate::cri) verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) status: Option<PodSandboxStatus>,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(in crate::cri) info: BTreeMap<String, String>,
}

/// The state of a sandbox that can hold running containers.
pub(in crate::cri) const SANDBOX_READY: i32 = 0;

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct PodSandboxStatus {
    #[prost(string, tag = "1")]
    pub(in crate::cri) id: String,
    #[prost(message, optional, tag = "2")]
    pub(in crate::cri) metadata: Option<PodSandboxMetadata>,
    #[prost(int32, tag = "3")]
    pub(in crate::cri) state: i32,
    #[prost(int64, tag = "4")]
    pub(in crate::cri) created_at: i64,
    #[prost(message, optional, tag = "5")]
    pub(in crate::cri) network: Option<PodSandboxNetworkStatus>,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(in crate::cri) labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "8")]
    pub(in crate::cri) annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct PodSandboxNetworkStatus {
    #[prost(string, tag = "1")]
    pub(in crate::cri) ip: String,
    #[prost(message, repeated, tag = "2")]
    pub(in crate::cri) additional_ips: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct PodIp {
    #[prost(string, tag = "1")]
    pub(in crate::cri) ip: String,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    pub(in crate::cri) items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct PodSandbox {
    #[prost(string, tag = "1")]
    pub(in crate::cri) id: String,
    #[prost(message, optional, tag = "2")]
    pub(in crate::cri) metadata: Option<PodSandboxMetadata>,
    #[prost(int32, tag = "3")]
    pub(in crate::cri) state: i32,
    #[prost(int64, tag = "4")]
    pub(in crate::cri) created_at: i64,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(in crate::cri) labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "6")]
    pub(in crate::cri) annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ImageSpec {
    #[prost(string, tag = "1")]
    pub(in crate::cri) image: String,
    #[prost(string, tag = "18")]
    pub(in crate::cri) user_specified_image: String,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct LinuxContainerResources {
    #[prost(int64, tag = "1")]
    pub(in crate::cri) cpu_period: i64,
    #[prost(int64, tag = "2")]
    pub(in crate::cri) cpu_quota: i64,
    #[prost(int64, tag = "3")]
    pub(in crate::cri) cpu_shares: i64,
    #[prost(int64, tag = "4")]
    pub(in crate::cri) memory_limit_in_bytes: i64,
    #[prost(int64, tag = "5")]
    pub(in crate::cri) oom_score_adj: i64,
    /// Files of cgroup v2 with what is written to them.
    #[prost(btree_map = "string, string", tag = "9")]
    pub(in crate::cri) unified: BTreeMap<String, String>,
    #[prost(int64, tag = "10")]
    pub(in crate::cri) memory_swap_limit_in_bytes: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct Capability {
    #[prost(string, repeated, tag = "1")]
    pub(in crate::cri) add_capabilities: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(in crate::cri) drop_capabilities: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct LinuxContainerSecurityContext {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) capabilities: Option<Capability>,
    #[prost(bool, tag = "2")]
    pub(in crate::cri) privileged: bool,
    #[prost(message, optional, tag = "3")]
    pub(in crate::cri) namespace_options: Option<NamespaceOption>,
    #[prost(message, optional, tag = "5")]
    pub(in crate::cri) run_as_user: Option<Int64Value>,
    #[prost(string, tag = "6")]
    pub(in crate::cri) run_as_username: String,
    #[prost(bool, tag = "7")]
    pub(in crate::cri) readonly_rootfs: bool,
    #[prost(int64, repeated, tag = "8")]
    pub(in crate::cri) supplemental_groups: Vec<i64>,
    #[prost(bool, tag = "11")]
    pub(in crate::cri) no_new_privs: bool,
    #[prost(message, optional, tag = "12")]
    pub(in crate::cri) run_as_group: Option<Int64Value>,
    #[prost(string, repeated, tag = "13")]
    pub(in crate::cri) masked_paths: Vec<String>,
    #[prost(string, repeated, tag = "14")]
    pub(in crate::cri) readonly_paths: Vec<String>,
    #[prost(message, optional, tag = "15")]
    pub(in crate::cri) seccomp: Option<SecurityProfile>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct LinuxContainerConfig {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) resources: Option<LinuxContainerResources>,
    #[prost(message, optional, tag = "2")]
    pub(in crate::cri) security_context: Option<LinuxContainerSecurityContext>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub(in crate::cri) name: String,
    #[prost(uint32, tag = "2")]
    pub(in crate::cri) attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(in crate::cri) key: String,
    #[prost(string, tag = "2")]
    pub(in crate::cri) value: String,
}

/// How mounts travel between node and container.
pub(in crate::cri) mod propagation {
    pub(in crate::cri) const PRIVATE: i32 = 0;
    pub(in crate::cri) const HOST_TO_CONTAINER: i32 = 1;
    pub(in crate::cri) const BIDIRECTIONAL: i32 = 2;
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct Mount {
    #[prost(string, tag = "1")]
    pub(in crate::cri) container_path: String,
    #[prost(string, tag = "2")]
    pub(in crate::cri) host_path: String,
    #[prost(bool, tag = "3")]
    pub(in crate::cri) readonly: bool,
    #[prost(int32, tag = "5")]
    pub(in crate::cri) propagation: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct Device {
    #[prost(string, tag = "1")]
    pub(in crate::cri) container_path: String,
    #[prost(string, tag = "2")]
    pub(in crate::cri) host_path: String,
    #[prost(string, tag = "3")]
    pub(in crate::cri) permissions: String,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    pub(in crate::cri) image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    pub(in crate::cri) command: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub(in crate::cri) args: Vec<String>,
    #[prost(string, tag = "5")]
    pub(in crate::cri) working_dir: String,
    #[prost(message, repeated, tag = "6")]
    pub(in crate::cri) envs: Vec<KeyValue>,
    #[prost(message, repeated, tag = "7")]
    pub(in crate::cri) mounts: Vec<Mount>,
    #[prost(message, repeated, tag = "8")]
    pub(in crate::cri) devices: Vec<Device>,
    #[prost(btree_map = "string, string", tag = "9")]
    pub(in crate::cri) labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "10")]
    pub(in crate::cri) annotations: BTreeMap<String, String>,
    #[prost(string, tag = "11")]
    pub(in crate::cri) log_path: String,
    #[prost(bool, tag = "12")]
    pub(in crate::cri) stdin: bool,
    #[prost(bool, tag = "13")]
    pub(in crate::cri) stdin_once: bool,
    #[prost(bool, tag = "14")]
    pub(in crate::cri) tty: bool,
    #[prost(message, optional, tag = "15")]
    pub(in crate::cri) linux: Option<LinuxContainerConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pub(in crate::cri) pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    pub(in crate::cri) config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    pub(in crate::cri) sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct StopContainerRequest {
    #[prost(string, tag = "1")]
    pub(in crate::cri) container_id: String,
    /// Seconds.
    #[prost(int64, tag = "2")]
    pub(in crate::cri) timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    pub(in crate::cri) containers: Vec<Container>,
}

/// Where a container is in its life.
pub(in crate::cri) mod state {
    pub(in crate::cri) const CREATED: i32 = 0;
    pub(in crate::cri) const RUNNING: i32 = 1;
    pub(in crate::cri) const EXITED: i32 = 2;
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct Container {
    #[prost(string, tag = "1")]
    pub(in crate::cri) id: String,
    #[prost(string, tag = "2")]
    pub(in crate::cri) pod_sandbox_id: String,
    #[prost(int32, tag = "6")]
    pub(in crate::cri) state: i32,
    #[prost(btree_map = "string, string", tag = "9")]
    pub(in crate::cri) annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ContainerStatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) status: Option<ContainerStatus>,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(in crate::cri) info: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ContainerStatus {
    #[prost(string, tag = "1")]
    pub(in crate::cri) id: String,
    #[prost(message, optional, tag = "2")]
    pub(in crate::cri) metadata: Option<ContainerMetadata>,
    #[prost(int32, tag = "3")]
    pub(in crate::cri) state: i32,
    /// Nanoseconds, as all times.
    #[prost(int64, tag = "4")]
    pub(in crate::cri) created_at: i64,
    #[prost(int64, tag = "5")]
    pub(in crate::cri) started_at: i64,
    #[prost(int64, tag = "6")]
    pub(in crate::cri) finished_at: i64,
    #[prost(int32, tag = "7")]
    pub(in crate::cri) exit_code: i32,
    #[prost(message, optional, tag = "8")]
    pub(in crate::cri) image: Option<ImageSpec>,
    #[prost(string, tag = "9")]
    pub(in crate::cri) image_ref: String,
    #[prost(string, tag = "10")]
    pub(in crate::cri) reason: String,
    #[prost(string, tag = "11")]
    pub(in crate::cri) message: String,
    #[prost(btree_map = "string, string", tag = "12")]
    pub(in crate::cri) labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "13")]
    pub(in crate::cri) annotations: BTreeMap<String, String>,
    #[prost(string, tag = "15")]
    pub(in crate::cri) log_path: String,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct UpdateContainerResourcesRequest {
    #[prost(string, tag = "1")]
    pub(in crate::cri) container_id: String,
    #[prost(message, optional, tag = "2")]
    pub(in crate::cri) linux: Option<LinuxContainerResources>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ExecSyncRequest {
    #[prost(string, tag = "1")]
    pub(in crate::cri) container_id: String,
    #[prost(string, repeated, tag = "2")]
    pub(in crate::cri) cmd: Vec<String>,
    /// Seconds; 0 is without end.
    #[prost(int64, tag = "3")]
    pub(in crate::cri) timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ExecSyncResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::cri) stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(in crate::cri) stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    pub(in crate::cri) exit_code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ExecRequest {
    #[prost(string, tag = "1")]
    pub(in crate::cri) container_id: String,
    #[prost(string, repeated, tag = "2")]
    pub(in crate::cri) cmd: Vec<String>,
    #[prost(bool, tag = "3")]
    pub(in crate::cri) tty: bool,
    #[prost(bool, tag = "4")]
    pub(in crate::cri) stdin: bool,
    #[prost(bool, tag = "5")]
    pub(in crate::cri) stdout: bool,
    #[prost(bool, tag = "6")]
    pub(in crate::cri) stderr: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct AttachRequest {
    #[prost(string, tag = "1")]
    pub(in crate::cri) container_id: String,
    #[prost(bool, tag = "2")]
    pub(in crate::cri) stdin: bool,
    #[prost(bool, tag = "3")]
    pub(in crate::cri) tty: bool,
    #[prost(bool, tag = "4")]
    pub(in crate::cri) stdout: bool,
    #[prost(bool, tag = "5")]
    pub(in crate::cri) stderr: bool,
}

/// Where the streams of a command or container are served.
#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct UrlResponse {
    #[prost(string, tag = "1")]
    pub(in crate::cri) url: String,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ContainerStatsResponse {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) stats: Option<ContainerStats>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ContainerStats {
    #[prost(message, optional, tag = "4")]
    pub(in crate::cri) writable_layer: Option<FilesystemUsage>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct FilesystemUsage {
    #[prost(message, optional, tag = "3")]
    pub(in crate::cri) used_bytes: Option<UInt64Value>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct Image {
    #[prost(string, tag = "1")]
    pub(in crate::cri) id: String,
    #[prost(string, repeated, tag = "2")]
    pub(in crate::cri) repo_tags: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub(in crate::cri) repo_digests: Vec<String>,
    #[prost(uint64, tag = "4")]
    pub(in crate::cri) size: u64,
    #[prost(message, optional, tag = "5")]
    pub(in crate::cri) uid: Option<Int64Value>,
    #[prost(string, tag = "6")]
    pub(in crate::cri) username: String,
    #[prost(bool, tag = "8")]
    pub(in crate::cri) pinned: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ListImagesResponse {
    #[prost(message, repeated, tag = "1")]
    pub(in crate::cri) images: Vec<Image>,
}

/// A request that names one image.
#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ByImage {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ImageStatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) image: Option<Image>,
}

/// `Debug` is left out: it would print the password.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(in crate::cri) struct AuthConfig {
    #[prost(string, tag = "1")]
    pub(in crate::cri) username: String,
    #[prost(string, tag = "2")]
    pub(in crate::cri) password: String,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("username", &self.username).finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    pub(in crate::cri) image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    pub(in crate::cri) auth: Option<AuthConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct PullImageResponse {
    #[prost(string, tag = "1")]
    pub(in crate::cri) image_ref: String,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::cri) struct ImageFsInfoResponse {
    #[prost(message, repeated, tag = "1")]
    pub(in crate::cri) image_filesystems: Vec<FilesystemUsage>,
}
