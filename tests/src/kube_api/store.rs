//! Objects with their versions, and what happened to them. No sockets here.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

/// What a cluster always knows: path of the collection, and kind.
const BUILT_IN: &[(&str, &str)] = &[
    ("/api/v1/services", "Service"),
    ("/api/v1/nodes", "Node"),
    ("/api/v1/pods", "Pod"),
    ("/api/v1/namespaces", "Namespace"),
    ("/apis/apps/v1/replicasets", "ReplicaSet"),
    ("/apis/batch/v1/jobs", "Job"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "EndpointSlice"),
];

/// A namespace and a name.
pub(super) type Key = (String, String);

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    pub(super) version: u64,
    /// What a line of a watch calls it.
    pub(super) type_: &'static str,
    /// The object, as JSON.
    pub(super) object: Arc<str>,
    /// What it happened to; `None` for a bookmark.
    pub(super) key: Option<Key>,
}

/// The objects of a kind.
#[derive(Debug, Default)]
pub(super) struct Collection {
    pub(super) kind: String,
    pub(super) api_version: String,
    pub(super) objects: BTreeMap<Key, (u64, Arc<str>)>,
    pub(super) log: Vec<Happened>,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) version: u64,
    /// What happened up to this version is forgotten.
    pub(super) forgotten: u64,
    pub(super) collections: BTreeMap<String, Collection>,
}

impl Default for Store {
    fn default() -> Self {
        let mut store = Self { version: 100, forgotten: 0, collections: BTreeMap::new() };
        for (path, kind) in BUILT_IN {
            store.define(path, kind);
        }
        store
    }
}

impl Store {
    pub(super) fn define(&mut self, path: &str, kind: &str) {
        let version = path.trim_start_matches("/apis/").trim_start_matches("/api/");
        let api_version = version.rsplit_once('/').map_or("v1", |(version, _)| version).to_owned();
        let collection = Collection { kind: kind.to_owned(), api_version, ..Collection::default() };
        self.collections.insert(path.to_owned(), collection);
    }

    pub(super) fn put(&mut self, object: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&object["kind"]);
        let key = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        self.version += 1;
        let version = self.version;
        let collection = self.collection(&kind);
        assert!(!key.1.is_empty(), "an object has a name: {object}");
        let before = collection.objects.get(&key).map(|(_, json)| parsed(json));
        let mut object = object.clone();
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
        metadata.entry("creationTimestamp").or_insert_with(|| json!("2026-01-01T00:00:00Z"));
        // Only what is asked for counts as another generation, not what is said about it.
        let generation = match &before {
            Some(before) if before["spec"] == object["spec"] => before["metadata"]["generation"].clone(),
            Some(before) => json!(before["metadata"]["generation"].as_u64().unwrap_or_default() + 1),
            None => json!(1),
        };
        object["metadata"]["generation"] = generation;
        let json: Arc<str> = object.to_string().into();
        let type_ = if before.is_some() { "MODIFIED" } else { "ADDED" };
        collection.objects.insert(key.clone(), (version, Arc::clone(&json)));
        collection.log.push(Happened { version, type_, object: json, key: Some(key) });
    }

    pub(super) fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        self.version += 1;
        let version = self.version;
        let collection = self.collection(kind);
        let key = (namespace.to_owned(), name.to_owned());
        let (_, json) = collection.objects.remove(&key).unwrap_or_else(|| panic!("no {kind} {key:?}"));
        let mut object = parsed(&json);
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let object = object.to_string().into();
        collection.log.push(Happened { version, type_: "DELETED", object, key: Some(key) });
    }

    pub(super) fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let collection = self.collections.values().find(|collection| collection.kind == kind)?;
        let (_, json) = collection.objects.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(parsed(json))
    }

    pub(super) fn bookmark(&mut self) {
        self.version += 1;
        let version = self.version;
        for collection in self.collections.values_mut() {
            let object = json!({
                "kind": collection.kind, "apiVersion": collection.api_version,
                "metadata": { "resourceVersion": version.to_string(), "creationTimestamp": null },
            });
            let object = object.to_string().into();
            collection.log.push(Happened { version, type_: "BOOKMARK", object, key: None });
        }
    }

    pub(super) fn compact(&mut self) {
        self.version += 1;
        self.forgotten = self.version;
        self.collections.values_mut().for_each(|collection| collection.log.clear());
    }

    fn collection(&mut self, kind: &str) -> &mut Collection {
        let mut collections = self.collections.values_mut();
        collections.find(|collection| collection.kind == kind).unwrap_or_else(|| panic!("no kind {kind}"))
    }
}

pub(super) fn parsed(json: &str) -> Value {
    serde_json::from_str(json).expect("what was put in is JSON")
}
