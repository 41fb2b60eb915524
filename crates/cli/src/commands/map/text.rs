//! The map as text: tables of tensors and layers, then the sums.

use std::collections::BTreeMap;
use std::io::{self, Write};

use lowtide_mapping::{PageTables, lock_limit};

use super::layout::Layout;
use super::picture::percent;
use super::survey::{Survey, pages_of, predicted};
use crate::failure::one_line;
use crate::human::{self, Align, Table};

/// A row per tensor, in the order of the file, the layers' sums between them.
pub fn tensors(
    out: &mut impl Write,
    layout: &Layout,
    survey: &Survey,
    with_tensors: bool,
) -> io::Result<()> {
    let by_process = survey.mappings().next().is_some();
    use Align::{Left, Right};
    let mut table = Table::new(&[Left, Left, Right, Right, Right, Right, Right, Right, Right]);
    let mapped = if by_process { "mapped" } else { "" };
    let buffers = if survey.buffers.is_some() { "buffers" } else { "" };
    let pages = ["first page", "last page", "extents"];
    table.row(["", "format", "bytes", "cached", mapped, buffers].into_iter().chain(pages));
    let mut by_layer: BTreeMap<Option<u32>, Vec<usize>> = BTreeMap::new();
    for (i, part) in layout.parts.iter().enumerate() {
        by_layer.entry(part.layer).or_default().push(i);
    }
    for (layer, parts) in by_layer {
        table.row(layer_row(layout, survey, layer, &parts, by_process));
        for &i in parts.iter().filter(|_| with_tensors) {
            table.row(tensor_row(layout, survey, i, by_process));
        }
    }
    table.write(out, "")
}

fn tensor_row(layout: &Layout, survey: &Survey, index: usize, by_process: bool) -> [String; 9] {
    let part = &layout.parts[index];
    let (first, last) = pages_of(part);
    let share = |held: u64| percent(held, part.bytes());
    let extents = survey.extents(part.shard, &part.range);
    let file = if layout.shards.len() > 1 { format!("{}: ", part.shard) } else { String::new() };
    [
        format!("  {file}{}", one_line(&part.name)),
        part.format.clone(),
        human::grouped(part.bytes()),
        share(survey.cached(part.shard, &part.range)),
        if by_process { share(survey.mapped(part.shard, &part.range)) } else { String::new() },
        match survey.buffers {
            Some(_) => share(survey.buffered(part.shard, &part.range)),
            None => String::new(),
        },
        human::grouped(first),
        human::grouped(last),
        extents.map_or_else(|| "?".to_owned(), |count| count.to_string()),
    ]
}

fn layer_row(
    layout: &Layout,
    survey: &Survey,
    layer: Option<u32>,
    parts: &[usize],
    by_process: bool,
) -> [String; 9] {
    let sum = |of: &dyn Fn(usize) -> u64| parts.iter().map(|&i| of(i)).sum::<u64>();
    let part = |i: usize| &layout.parts[i];
    let bytes = sum(&|i| part(i).bytes());
    let cached = sum(&|i| survey.cached(part(i).shard, &part(i).range));
    let mapped = sum(&|i| survey.mapped(part(i).shard, &part(i).range));
    let buffered = sum(&|i| survey.buffered(part(i).shard, &part(i).range));
    [
        layer.map_or_else(|| "outside the layers".to_owned(), |layer| format!("layer {layer}")),
        String::new(),
        human::grouped(bytes),
        percent(cached, bytes),
        if by_process { percent(mapped, bytes) } else { String::new() },
        if survey.buffers.is_some() { percent(buffered, bytes) } else { String::new() },
        String::new(),
        String::new(),
        String::new(),
    ]
}

/// The figures of the whole, and what the page tables cost.
pub fn sums(
    out: &mut impl Write,
    layout: &Layout,
    survey: &Survey,
    measured: Option<u64>,
) -> io::Result<()> {
    let total = layout.file_bytes();
    let mut table = Table::new(&[Align::Left, Align::Right, Align::Right, Align::Left]);
    let mut row = |label: &str, bytes: u64, note: String| {
        table.row([label.to_owned(), human::grouped(bytes), human::bytes(bytes), note]);
    };
    let files = match layout.shards.len() {
        1 => String::new(),
        count => format!("{count} files"),
    };
    row("file", total, files);
    row(
        "in the page cache",
        survey.cached_bytes(),
        percent(survey.cached_bytes().min(total), total),
    );
    let who = format!("{} ({})", survey.process, one_line(&survey.program));
    row("mapped", survey.mapped_bytes(), format!("address space of {who}"));
    let smaps = match survey.rss_bytes() == survey.present_bytes() {
        true => "pages in its page tables; smaps says the same".to_owned(),
        false => {
            format!(
                "pages in its page tables; smaps, a moment before, {}",
                human::grouped(survey.rss_bytes())
            )
        }
    };
    row("of that resident", survey.present_bytes(), smaps);
    if survey.buffers.is_some() {
        let note = "cached experts and streamed tiles, there or on their way".to_owned();
        row("in its buffers", survey.buffered_bytes(), note);
    }
    row(
        "cached, not mapped",
        survey.cached_not_mapped_bytes(),
        "in the page cache, not in its page tables".to_owned(),
    );
    row("RSS", survey.memory.rss_bytes, format!("all of {who}"));
    if let Some((group, usage)) = survey.group.as_ref().and_then(|g| Some((g, g.usage_bytes?))) {
        row("charge", usage, format!("control group {}", group.path.display()));
    }
    row("locked", survey.memory.locked_bytes, format!("limit {}", lock_limit()));
    table.write(out, "")?;
    writeln!(out)?;
    page_tables(out, layout, survey, measured)?;
    notes(out, layout, survey)
}

fn page_tables(
    out: &mut impl Write,
    layout: &Layout,
    survey: &Survey,
    measured: Option<u64>,
) -> io::Result<()> {
    let (best, worst) = predicted(layout);
    let mut table =
        Table::new(&[Align::Left, Align::Right, Align::Right, Align::Right, Align::Left]);
    table.row(["page tables", "L0", "L1", "bytes of both", ""]);
    let mut row = |label: &str, tables: &PageTables, note: String| {
        let [l0, l1, ..] = tables.levels.map(human::grouped);
        table.row([label.to_owned(), l0, l1, human::grouped(tables.lecture_bytes()), note]);
    };
    row("all pages, at best", &best, "one entry of 8 bytes a page, 512 to a table".to_owned());
    row("at worst", &worst, "not aligned to a table".to_owned());
    let tables = survey.tables();
    row("present pages", &tables, format!("counted in the pagemap of {}", survey.process));
    table.write(out, "")?;
    if let Some(measured) = measured {
        let off = (measured as f64 / best.lecture_bytes() as f64 - 1.0) * 100.0;
        writeln!(
            out,
            "measured by touching as many pages: {} bytes ({off:+.2} %)",
            human::grouped(measured)
        )?;
    }
    let all = human::grouped(survey.memory.page_table_bytes);
    writeln!(out, "VmPTE of {}, all its mappings together: {all} bytes", survey.process)
}

fn notes(out: &mut impl Write, layout: &Layout, survey: &Survey) -> io::Result<()> {
    for (file, shard) in layout.shards.iter().zip(&survey.shards) {
        let name = one_line(&file.path().display().to_string());
        if !shard.is_told {
            writeln!(
                out,
                "note: {name} is not yours, so the kernel says that all of it is cached"
            )?;
        }
        match &shard.extents {
            None => writeln!(out, "note: the file system of {name} does not say where it lies")?,
            Some(extents) => {
                let longest = extents.iter().map(|extent| extent.length).max().unwrap_or(0);
                writeln!(
                    out,
                    "disk: {name} lies in {} pieces, the longest {}",
                    extents.len(),
                    human::bytes(longest)
                )?;
            }
        }
    }
    Ok(())
}
