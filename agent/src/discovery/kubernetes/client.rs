//! How the agent reaches the API server, and who it is there.

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::ACCEPT;
use kube::client::ClientBuilder;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tower::util::{MapRequestLayer, MapResponseLayer};

/// The environment variable that names this node; in a DaemonSet, from `spec.nodeName`.
const NODE_NAME: &str = "NODE_NAME";

/// Longer than any watch is silent: the API server ends each after [`super::watch::LONGEST_WATCH`].
/// What is asked for where the metadata of objects is enough; everything, where the server cannot leave the rest out.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
/// The same for a list.
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

const READ_TIMEOUT: Duration = Duration::from_secs(240);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where services come from, and whose node this is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file that says how to reach the API server; `None`: as a pod does.
    pub kubeconfig: Option<PathBuf>,
    /// The name of this node in the cluster; `None`: `NODE_NAME`, or the host's name.
    pub node: Option<String>,
    /// The zone this node is in, where the operator says so.
    pub zone: Option<String>,
    /// Where the snapshot is kept.
    pub state: PathBuf,
}

/// Why the API server cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// This is no pod, and no file was named.
    #[error(
        "this is no pod of a cluster ({0}); name the file that says how to reach the API server with --kubeconfig"
    )]
    NotInCluster(#[source] Box<InClusterError>),
    /// The file cannot be used.
    #[error("cannot use {}: {source}; does `kubectl --kubeconfig` take it?", file.display())]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// There is no way to speak to the server that was named.
    #[error("cannot speak to {server}: {source}; check the certificates and the user in the kubeconfig")]
    Client {
        /// The server.
        server: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The node has no name.
    #[error("this node's name is not known; give it with --node, as in `kubectl get nodes`")]
    NoNode,
}

/// How much of objects a client is to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of them.
    All,
    /// The metadata, in lists and watches.
    MetadataOfAll,
    /// The metadata of single objects.
    MetadataOfOne,
}

/// What clients are made of.
pub(super) struct Reached {
    config: Config,
    /// The server's URL.
    pub(super) server: String,
    /// The server's address, where the URL has one instead of a name.
    pub(super) address: Option<SocketAddr>,
    /// This node.
    pub(super) node: String,
}

impl Reached {
    /// A client that says when the server gave a good answer: of a watch, when it begins, and not only when something
    /// happens.
    pub(super) fn client(
        &self,
        wanted: Wanted,
        answered: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Result<Client, KubernetesError> {
        let heard = MapResponseLayer::new(move |response: axum::http::Response<_>| {
            if response.status().is_success() {
                answered();
            }
            response
        });
        let accept = MapRequestLayer::new(move |mut request: axum::http::Request<_>| {
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch="));
            let accepted = match wanted {
                Wanted::All => return request,
                Wanted::MetadataOfAll if !is_watch => METADATA_LIST,
                Wanted::MetadataOfAll | Wanted::MetadataOfOne => METADATA,
            };
            request.headers_mut().insert(ACCEPT, HeaderValue::from_static(accepted));
            request
        });
        let builder = ClientBuilder::try_from(self.config.clone());
        let builder = builder.map_err(|error| KubernetesError::Client {
            server: self.server.clone(),
            source: Box::new(error),
        })?;
        Ok(builder.with_layer(&heard).with_layer(&accept).build())
    }
}

/// Finds out how the server is reached. It is not asked yet.
pub(super) async fn reach(options: &Options) -> Result<Reached, KubernetesError> {
    let mut config = match &options.kubeconfig {
        None => Config::incluster().map_err(|error| KubernetesError::NotInCluster(Box::new(error)))?,
        Some(file) => {
            let unusable =
                |source| KubernetesError::Kubeconfig { file: file.clone(), source: Box::new(source) };
            let kubeconfig = Kubeconfig::read_from(file).map_err(unusable)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(unusable)?
        }
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    // Each watch backs off by itself, and says what it waits for.
    config.default_retry = false;
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let port = config.cluster_url.port_u16();
    let port = port.unwrap_or(if config.cluster_url.scheme_str() == Some("http") { 80 } else { 443 });
    let host = config.cluster_url.host().map(|host| host.trim_matches(['[', ']']));
    let address = host.and_then(|host| host.parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, port));
    let node = node_name(options).ok_or(KubernetesError::NoNode)?;
    let reached = Reached { config, server, address, node };
    // What is wrong with certificates is found here, and not in the background.
    reached.client(Wanted::All, || {})?;
    Ok(reached)
}

/// The name of this node: as it was said, else the host's as the kubelet takes it.
fn node_name(options: &Options) -> Option<String> {
    let said = options.node.clone().or_else(|| env::var(NODE_NAME).ok());
    let host = || Some(rustix::system::uname().nodename().to_str().ok()?.trim().to_lowercase());
    said.filter(|name| !name.is_empty()).or_else(host).filter(|name| !name.is_empty())
}
