//! Pods, their namespaces, and the Jobs that own some of them: of each no more than its metadata.

use serde::Deserialize;

use super::super::lenient::{lenient, readable};
use super::super::objects::{Kind, Object, ObjectKey, Owner, Pod, Template};
use super::{Meta, Wire};

/// In what is shown of a static pod, the hash by which the kubelet, and so the cgroup, calls it.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// At this hash the name of a Deployment's ReplicaSet ends.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// The same of an Argo Rollout.
const ROLLOUT_HASH: &str = "rollouts-pod-template-hash";
/// No UID and no hash is longer.
const MAX_UID_BYTES: usize = 63;

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct PodWire {
    #[serde(deserialize_with = "lenient")]
    metadata: Meta,
}

/// A Namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct NamespaceWire {
    #[serde(deserialize_with = "lenient")]
    metadata: Meta,
}

/// A Job, which is not watched but asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct JobWire {
    #[serde(deserialize_with = "lenient")]
    metadata: Meta,
}
readable!(PodWire, NamespaceWire);

impl JobWire {
    /// What made it.
    pub(in super::super) fn owner(&self) -> Option<Owner> {
        self.metadata.owner()
    }
}

impl Wire for PodWire {
    const KIND: Kind = Kind::Pod;
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const NAME: &'static str = "Pod";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn object(&self, key: ObjectKey, _: &str) -> Option<Object> {
        let meta = &self.metadata;
        let usable = |text: &&str| !text.is_empty() && text.len() <= MAX_UID_BYTES;
        let mirrored = meta.annotations.get(MIRROR).map(|hash| &**hash).filter(usable);
        let uid = mirrored.or_else(|| meta.uid.as_deref().filter(usable))?;
        let hash = |label: &str| meta.labels.get(label).filter(|hash| !hash.is_empty());
        let template = hash(TEMPLATE_HASH).map(|hash| (hash, true));
        let template = template.or_else(|| hash(ROLLOUT_HASH).map(|hash| (hash, false)));
        Some(Object::Pod(Pod {
            key,
            uid: uid.into(),
            owner: meta.owner(),
            template: template
                .map(|(hash, is_deployments)| Template { hash: (**hash).into(), is_deployments }),
            left_alone: meta.is_left_alone(),
        }))
    }
}

impl Wire for NamespaceWire {
    const KIND: Kind = Kind::Namespace;
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const NAME: &'static str = "Namespace";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn object(&self, key: ObjectKey, _: &str) -> Option<Object> {
        self.metadata.is_left_alone().then_some(Object::Namespace(key))
    }
}
