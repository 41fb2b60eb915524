//! The map as JSON.

use lowtide_mapping::{PageTables, page_size};
use serde_json::{Value, json};

use super::layout::Layout;
use super::survey::{Survey, pages_of, predicted};

fn tables(tables: &PageTables) -> Value {
    let [l0, l1, l2, l3] = tables.levels;
    json!({
        "l0": l0, "l1": l1, "l2": l2, "l3": l3,
        "bytes": tables.bytes(), "lecture_bytes": tables.lecture_bytes(),
    })
}

/// One document.
pub fn document(layout: &Layout, survey: &Survey, measured: Option<u64>) -> Value {
    let (best, worst) = predicted(layout);
    let group = survey.group.as_ref();
    json!({
        "model": {
            "path": layout.shards.first().map(|file| file.path().to_string_lossy()),
            "architecture": layout.architecture,
            "file_bytes": layout.file_bytes(),
            "layers": layout.layers,
            "tensors": layout.tensors(),
        },
        "page_bytes": page_size(),
        "process": {
            "program": survey.program,
            "rss_bytes": survey.memory.rss_bytes,
            "charge_bytes": group.and_then(|group| group.usage_bytes),
            "page_table_bytes": survey.memory.page_table_bytes,
            "locked_bytes": survey.memory.locked_bytes,
        },
        "totals": {
            "file_bytes": layout.file_bytes(),
            "cached_bytes": survey.cached_bytes(),
            "mapped_bytes": survey.mapped_bytes(),
            "resident_bytes": survey.present_bytes(),
            "smaps_rss_bytes": survey.rss_bytes(),
            "cached_not_mapped_bytes": survey.cached_not_mapped_bytes(),
            "buffered_bytes": survey.buffers.as_ref().map(|_| survey.buffered_bytes()),
        },
        "page_tables": {
            "best": tables(&best),
            "worst": tables(&worst),
            "present": tables(&survey.tables()),
            "measured_bytes": measured,
        },
        "files": files(layout, survey),
        "layers": layers(layout, survey),
        "tensors": parts(layout, survey),
    })
}

fn files(layout: &Layout, survey: &Survey) -> Vec<Value> {
    let file = |(file, shard): (&lowtide_mapping::ModelFile, &super::survey::ShardSurvey)| {
        let mappings = shard.mappings.iter().map(|(mapping, pages)| {
            json!({
                "start": mapping.start, "bytes": mapping.length(),
                "file_offset": mapping.file_offset,
                "resident_bytes": pages.resident_bytes(), "smaps_rss_bytes": mapping.rss_bytes,
                "referenced_bytes": mapping.referenced_bytes,
            })
        });
        json!({
            "path": file.path().to_string_lossy(),
            "bytes": file.size(),
            "cached_bytes": shard.cached.resident_bytes(),
            "cached_is_known": shard.is_told,
            "extents": shard.extents.as_ref().map(Vec::len),
            "mappings": mappings.collect::<Vec<_>>(),
        })
    };
    layout.shards.iter().zip(&survey.shards).map(file).collect()
}

fn layers(layout: &Layout, survey: &Survey) -> Vec<Value> {
    let layer = |layer: u32| {
        let parts = layout.parts.iter().filter(|part| part.layer == Some(layer));
        let (mut count, mut bytes, mut cached, mut mapped, mut buffered) = (0, 0, 0, 0, 0);
        for part in parts {
            count += 1;
            bytes += part.bytes();
            cached += survey.cached(part.shard, &part.range);
            mapped += survey.mapped(part.shard, &part.range);
            buffered += survey.buffered(part.shard, &part.range);
        }
        json!({
            "layer": layer, "tensors": count, "bytes": bytes,
            "cached_bytes": cached, "resident_bytes": mapped,
            "buffered_bytes": buffered,
        })
    };
    // A tensor's name may claim any layer: as many as there are tensors, no more.
    let most = layout.layers.min(u32::try_from(layout.parts.len()).unwrap_or(u32::MAX));
    (0..most).map(layer).collect()
}

fn parts(layout: &Layout, survey: &Survey) -> Vec<Value> {
    let part = |part: &super::layout::Part| {
        let (first, last) = pages_of(part);
        json!({
            "name": part.name, "layer": part.layer, "kind": part.kind.label(),
            "format": part.format, "file": part.shard,
            "offset": part.range.start, "bytes": part.bytes(),
            "cached_bytes": survey.cached(part.shard, &part.range),
            "resident_bytes": survey.mapped(part.shard, &part.range),
            "buffered_bytes": survey.buffered(part.shard, &part.range),
            "first_page": first, "last_page": last,
            "extents": survey.extents(part.shard, &part.range),
        })
    };
    layout.parts.iter().map(part).collect()
}
