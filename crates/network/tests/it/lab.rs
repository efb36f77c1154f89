//! A small world of network namespaces: a host with a bridge, nodes on it, pods in nodes.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use network::pods::{HostPort, NodeRoute, PodNetwork, PodNetworkConfig};
use network::proxy::{ProxyConfig, Service, ServiceProxy, ServiceTable, SyncReport};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

pub(crate) const POD_NETWORK: &str = "10.2.0.0/16";

/// How long anything in these tests may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A network namespace with threads that live in it. It goes away with the value.
pub(crate) struct Space {
    file: Arc<OwnedFd>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Space {
    pub(crate) fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("making a network namespace: these tests need root");
            OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").unwrap())
        })
        .join()
        .unwrap();
        let file = Arc::new(file);
        let home = file.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(move || setns(&*home, CloneFlags::CLONE_NEWNET).unwrap())
            .build()
            .unwrap();
        let space = Self { file, runtime: Some(runtime) };
        space.run(async {
            let (_driver, handle) = routing();
            handle.link().set(LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
        });
        space
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Runs `work` on a thread of the namespace and returns what it returns.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = std::sync::mpsc::channel();
        self.spawn(async move { done.send(work.await).unwrap() });
        result.recv().expect("the work panicked")
    }

    /// Starts `work` on a thread of the namespace.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.as_ref().unwrap().spawn(work);
    }

    /// Answers every TCP connection and UDP datagram on `port` with `name`, a space, and the client's address.
    pub(crate) fn serve(&self, name: &'static str, port: u16) {
        let (tcp, udp) = self.run(async move {
            let any = (Ipv4Addr::UNSPECIFIED, port);
            (TcpListener::bind(any).await.unwrap(), UdpSocket::bind(any).await.unwrap())
        });
        self.spawn(async move {
            loop {
                let (mut stream, peer) = tcp.accept().await.unwrap();
                // A client that is gone already is its own affair.
                drop(stream.write_all(format!("{name} {}", peer.ip()).as_bytes()).await);
            }
        });
        self.spawn(async move {
            let mut buffer = [0; 512];
            loop {
                // An ICMP answer to an earlier datagram shows up here as an error.
                let Ok((_, peer)) = udp.recv_from(&mut buffer).await else { continue };
                udp.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer).await.unwrap();
            }
        });
    }

    /// Connects and returns the whole answer, or the error's kind.
    pub(crate) fn tcp(&self, to: impl Into<String>) -> Result<String, std::io::ErrorKind> {
        self.tcp_from(None, to)
    }

    pub(crate) fn tcp_from(
        &self,
        from: Option<Ipv4Addr>,
        to: impl Into<String>,
    ) -> Result<String, std::io::ErrorKind> {
        let to: SocketAddr = to.into().parse().unwrap();
        self.run(async move {
            let work = async {
                let socket = TcpSocket::new_v4()?;
                if let Some(from) = from {
                    socket.bind((from, 0).into())?;
                }
                let mut stream = socket.connect(to).await?;
                let mut text = String::new();
                stream.read_to_string(&mut text).await?;
                Ok::<_, std::io::Error>(text)
            };
            match tokio::time::timeout(PATIENCE, work).await {
                Ok(outcome) => outcome.map_err(|error| error.kind()),
                Err(_) => Err(std::io::ErrorKind::TimedOut),
            }
        })
    }

    /// Whether a connection gets no answer at all.
    pub(crate) fn is_dropped(&self, to: impl Into<String>) -> bool {
        let to: SocketAddr = to.into().parse().unwrap();
        self.run(async move {
            let connect = tokio::net::TcpStream::connect(to);
            tokio::time::timeout(Duration::from_millis(700), connect).await.is_err()
        })
    }

    /// Sends a datagram and returns the answer, or the error's kind.
    pub(crate) fn udp(&self, to: impl Into<String>) -> Result<String, std::io::ErrorKind> {
        let to: SocketAddr = to.into().parse().unwrap();
        self.run(async move {
            let work = async {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
                socket.connect(to).await?;
                socket.send(b"hello").await?;
                let mut buffer = [0; 512];
                let length = socket.recv(&mut buffer).await?;
                Ok::<_, std::io::Error>(String::from_utf8_lossy(&buffer[..length]).into_owned())
            };
            match tokio::time::timeout(PATIENCE, work).await {
                Ok(outcome) => outcome.map_err(|error| error.kind()),
                Err(_) => Err(std::io::ErrorKind::TimedOut),
            }
        })
    }

    /// Returns the names of all links.
    pub(crate) fn link_names(&self) -> Vec<String> {
        self.run(async {
            let (_driver, handle) = routing();
            let links: Vec<_> = handle.link().get().execute().try_collect().await.unwrap();
            links
                .into_iter()
                .flat_map(|link| link.attributes)
                .filter_map(|attribute| match attribute {
                    rtnetlink::packet_route::link::LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                })
                .collect()
        })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // Waiting for the threads would hang on servers that never end.
        self.runtime.take().unwrap().shutdown_background();
    }
}

pub(crate) fn routing() -> (tokio_util::task::AbortOnDropHandle<()>, rtnetlink::Handle) {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    (tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection)), handle)
}

async fn index_of(handle: &rtnetlink::Handle, name: &str) -> u32 {
    let mut links = std::pin::pin!(handle.link().get().match_name(name).execute());
    links.try_next().await.unwrap().unwrap().header.index
}

/// The host: a bridge at 172.17.4.1 that nodes are plugged into.
pub(crate) struct Host {
    pub(crate) space: Space,
}

impl Host {
    pub(crate) fn new() -> Self {
        let space = Space::new();
        space.run(async {
            let (_driver, handle) = routing();
            handle.link().add(LinkBridge::new("br0").up().build()).execute().await.unwrap();
            let bridge = index_of(&handle, "br0").await;
            handle.address().add(bridge, Ipv4Addr::new(172, 17, 4, 1).into(), 24).execute().await.unwrap();
        });
        Self { space }
    }

    /// Adds a node whose address ends in `last`, with a default route by the host.
    pub(crate) fn node(&self, last: u8) -> Space {
        let node = Space::new();
        let file = node.file.clone();
        self.space.run(async move {
            let (_driver, handle) = routing();
            let bridge = index_of(&handle, "br0").await;
            let peer = LinkMessageBuilder::<LinkUnspec>::new()
                .name("eth0".to_string())
                .setns_by_fd(file.as_raw_fd())
                .build();
            let name = format!("n{last}");
            let pair = LinkMessageBuilder::<LinkVeth>::new(&name, "eth0")
                .set_info_data(rtnetlink::packet_route::link::InfoData::Veth(
                    rtnetlink::packet_route::link::InfoVeth::Peer(peer),
                ))
                .build();
            handle.link().add(pair).execute().await.unwrap();
            let index = index_of(&handle, &name).await;
            let plug = LinkUnspec::new_with_index(index).controller(bridge).up().build();
            handle.link().set(plug).execute().await.unwrap();
        });
        node.run(async move {
            let (_driver, handle) = routing();
            let index = index_of(&handle, "eth0").await;
            handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
            handle.address().add(index, Ipv4Addr::new(172, 17, 4, last).into(), 24).execute().await.unwrap();
            let default =
                RouteMessageBuilder::<Ipv4Addr>::new().gateway(Ipv4Addr::new(172, 17, 4, 1)).build();
            handle.route().add(default).execute().await.unwrap();
        });
        node
    }
}

/// A node with its pod network.
pub(crate) struct Node {
    pub(crate) space: Space,
    pub(crate) ip: Ipv4Addr,
    pub(crate) pods: Arc<PodNetwork>,
    pub(crate) config: PodNetworkConfig,
    _state: tempfile::TempDir,
}

impl Node {
    /// Opens node `number`: 172.17.4.20x with pods in 10.2.x.0/24.
    pub(crate) fn new(host: &Host, number: u8) -> Self {
        let space = host.node(200 + number);
        let ip = Ipv4Addr::new(172, 17, 4, 200 + number);
        let state = tempfile::tempdir().unwrap();
        let config = PodNetworkConfig {
            pod_cidr: format!("10.2.{number}.0/24").parse().unwrap(),
            cluster_pod_cidr: POD_NETWORK.parse().unwrap(),
            node_ip: ip,
            state_directory: state.path().into(),
        };
        let pods = open(&space, &config);
        Self { space, ip, pods, config, _state: state }
    }

    pub(crate) fn pod(&self, id: &str) -> (Space, Ipv4Addr) {
        self.pod_with_ports(id, &[])
    }

    pub(crate) fn pod_with_ports(&self, id: &str, ports: &[HostPort]) -> (Space, Ipv4Addr) {
        let pod = Space::new();
        let (network, path, id, ports) = (self.pods.clone(), pod.path(), id.to_string(), ports.to_vec());
        let addresses = self.space.run(async move { network.attach(&id, &path, &ports).await.unwrap() });
        let [IpAddr::V4(address)] = addresses[..] else { panic!("{addresses:?}") };
        (pod, address)
    }

    pub(crate) fn detach(&self, id: &str) {
        let (network, id) = (self.pods.clone(), id.to_string());
        self.space.run(async move { network.detach(&id).await.unwrap() });
    }

    /// Ends the pod network's process, so to speak, and starts it again.
    pub(crate) fn restart(&mut self) {
        self.pods = open(&self.space, &self.config);
    }

    pub(crate) fn route(&self) -> NodeRoute {
        NodeRoute { node_ip: self.ip, pod_cidr: self.config.pod_cidr }
    }
}

/// Opens the service proxy of a node.
pub(crate) fn proxy(node: &Node) -> Arc<ServiceProxy> {
    let config = ProxyConfig {
        cluster_pod_cidr: POD_NETWORK.parse().unwrap(),
        service_cidr: "10.3.0.0/24".parse().unwrap(),
        node_ip: node.ip,
        local_addresses: vec![Ipv4Addr::new(10, 3, 0, 10)],
    };
    Arc::new(node.space.run(async move { ServiceProxy::open(config).await.unwrap() }))
}

/// Brings a proxy to these services.
pub(crate) fn sync(node: &Node, proxy: &Arc<ServiceProxy>, services: &[Service]) -> SyncReport {
    let (proxy, table) = (proxy.clone(), ServiceTable { services: services.to_vec() });
    node.space.run(async move { proxy.sync(&table).await.unwrap() })
}

fn open(space: &Space, config: &PodNetworkConfig) -> Arc<PodNetwork> {
    let config = config.clone();
    Arc::new(space.run(async move { PodNetwork::open(config).await.unwrap() }))
}

/// Two nodes that know each other.
pub(crate) fn two_nodes(host: &Host) -> (Node, Node) {
    let (one, two) = (Node::new(host, 1), Node::new(host, 2));
    let peers = [one.route(), two.route()];
    for node in [&one, &two] {
        let network = node.pods.clone();
        node.space.run(async move { network.set_peers(&peers).await.unwrap() });
    }
    (one, two)
}
