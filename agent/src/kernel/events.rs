//! The rings of events and of requests, read as they fill.

use std::io;
use std::path::Path;

use aya::maps::{Map, MapData, RingBuf};
use bytes::Bytes;
use tokio::io::unix::AsyncFd;

use super::KernelError;

/// Reads events of the data plane. There is one reader per ring.
pub struct EventReader {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl EventReader {
    pub(super) fn new(name: &'static str, path: &Path) -> Result<Self, KernelError> {
        let fail = |source| KernelError::Map { map: name, path: path.to_owned(), source };
        let map = MapData::from_pin(path).map_err(|error| fail(io::Error::other(error)))?;
        let ring = RingBuf::try_from(Map::RingBuf(map)).map_err(|error| fail(io::Error::other(error)))?;
        // SAFETY: the ring owns its map's descriptor and always gives the same one until it is dropped.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(|error| fail(io::Error::from(error)))?;
        Ok(Self { ring })
    }

    /// Waits until there are events and takes up to `limit` of them, as bytes.
    pub async fn read(&mut self, limit: usize) -> io::Result<Vec<Bytes>> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let mut records = Vec::new();
            while records.len() < limit {
                let Some(record) = ready.get_inner_mut().next() else { break };
                records.push(Bytes::copy_from_slice(&record));
            }
            if records.len() < limit {
                ready.clear_ready();
            }
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }
}
