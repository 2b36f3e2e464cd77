//! Maps of files, read ahead where each read waits for a network.

use std::collections::VecDeque;
use std::sync::Arc;

use walkeep_chunkstore::Error;
use walkeep_chunkstore::node::{Body, ByteMap, FileContent, FileEntry, NodeRef, NodeStore, PageMap};
use walkeep_chunkstore::parallel::side_by_side;

/// Maps that are read at once: 2 GiB of files, some 20 MiB in memory at worst.
const WINDOW: usize = 128;

/// Where one region's bytes are.
pub(super) enum Map {
    Pages(Arc<PageMap>),
    Bytes(ByteMap),
}

/// Gives out maps.
pub(super) struct Maps<'a> {
    nodes: &'a NodeStore,
    threads: usize,
    /// Those that will be asked for, in this order.
    coming: VecDeque<(Body, NodeRef)>,
    ready: VecDeque<(NodeRef, Result<Map, Error>)>,
}

impl<'a> Maps<'a> {
    /// Maps that are read on so many threads; one reads nothing ahead.
    pub(super) fn new(nodes: &'a NodeStore, threads: usize) -> Self {
        Self { nodes, threads, coming: VecDeque::new(), ready: VecDeque::new() }
    }

    /// Says which maps come next. Some of them may never be asked for.
    pub(super) fn announce(&mut self, entries: &[FileEntry]) {
        if self.threads <= 1 {
            return;
        }
        for entry in entries {
            if let FileContent::File { body, regions, .. } = &entry.content {
                self.coming.extend(regions.iter().map(|region| (*body, *region)));
            }
        }
    }

    /// The map at `node`.
    pub(super) fn get(&mut self, body: Body, node: &NodeRef) -> Result<Map, Error> {
        loop {
            while let Some((at, map)) = self.ready.pop_front() {
                if at == *node {
                    return map;
                }
            }
            if self.coming.is_empty() {
                return read(self.nodes, body, node);
            }
            let window: Vec<_> = self.coming.drain(..self.coming.len().min(WINDOW)).collect();
            let maps = side_by_side(&window, self.threads, |(body, node)| read(self.nodes, *body, node));
            self.ready = window.into_iter().map(|(_, node)| node).zip(maps).collect();
        }
    }
}

fn read(nodes: &NodeStore, body: Body, node: &NodeRef) -> Result<Map, Error> {
    Ok(match body {
        Body::Pages => Map::Pages(nodes.page_map(node)?.map),
        Body::Bytes => Map::Bytes(nodes.byte_map(node)?),
    })
}
