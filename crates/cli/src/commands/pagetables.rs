//! `lowtide pagetables`: what a mapping costs before a byte of it is read, by arithmetic and, with
//! `--measure`, by the kernel's own count.

use std::io::{self, Write};

use anyhow::Result;
use lowtide_mapping::{
    LEVELS, MemoryLimits, PageSize, PageTables, TABLE_BYTES, measure_page_tables, table_span,
};
use serde::Serialize;

use crate::args::PagetablesArgs;
use crate::failure::{Failure, STATUS_INPUT, STATUS_RUNNING};
use crate::human::{self, Align, Table};
use crate::output::Stdout;
use crate::progress::Transfer;
use crate::signals::Interruptible;

#[derive(Serialize)]
struct Document {
    bytes: u64,
    page_bytes: u64,
    tables: Levels,
    table_bytes: u64,
    lecture_bytes: u64,
    /// Null without `--measure`.
    measured_bytes: Option<u64>,
    /// Where the mapping begins, counted from the beginning of a table of every level.
    offset_bytes: u64,
    best: Case,
    worst: Case,
}

/// One way of lying in the address space.
#[derive(Serialize)]
struct Case {
    tables: Levels,
    table_bytes: u64,
    lecture_bytes: u64,
}

impl Case {
    fn of(tables: &PageTables) -> Self {
        Self {
            tables: Levels::of(tables),
            table_bytes: tables.bytes(),
            lecture_bytes: tables.lecture_bytes(),
        }
    }
}

/// Tables of each level.
#[derive(Serialize)]
struct Levels {
    l0: u64,
    l1: u64,
    l2: u64,
    l3: u64,
}

impl Levels {
    fn of(tables: &PageTables) -> Self {
        let [l0, l1, l2, l3] = tables.levels;
        Self { l0, l1, l2, l3 }
    }
}

/// The sum for one mapping.
struct Sum {
    bytes: u64,
    page: PageSize,
    offset: u64,
    /// Beginning at the offset.
    tables: PageTables,
    best: PageTables,
    worst: PageTables,
}

impl Sum {
    fn new(bytes: u64, page: PageSize, offset: u64) -> Result<Self, lowtide_mapping::Error> {
        Ok(Self {
            bytes,
            page,
            offset,
            tables: PageTables::exact(offset, bytes, page)?,
            best: PageTables::best(bytes, page)?,
            worst: PageTables::worst(bytes, page)?,
        })
    }
}

/// Counts, measures if asked to, and prints.
pub fn pagetables(args: &PagetablesArgs) -> Result<()> {
    let broken = |error: lowtide_mapping::Error| Failure::from_lines(&error, STATUS_INPUT);
    let page = page_size(args)?;
    let sum = Sum::new(args.size, page, args.offset.unwrap_or(0)).map_err(broken)?;
    let measured_bytes = if args.measure { Some(measure(args.size, &sum.best)?) } else { None };
    if args.json {
        let document = Document {
            bytes: args.size,
            page_bytes: page.bytes(),
            tables: Levels::of(&sum.tables),
            table_bytes: sum.tables.bytes(),
            lecture_bytes: sum.tables.lecture_bytes(),
            measured_bytes,
            offset_bytes: sum.offset,
            best: Case::of(&sum.best),
            worst: Case::of(&sum.worst),
        };
        Stdout::lock().json(&document)?;
        return Ok(());
    }
    let mut out = Stdout::lock();
    text(&mut out, &sum, measured_bytes)?;
    out.finish()?;
    Ok(())
}

/// The size of page that was asked for, if the offset is a multiple of it.
fn page_size(args: &PagetablesArgs) -> Result<PageSize> {
    let wrong = |what: String, why: &str| Failure::input(what).why(why);
    let Some(page) = PageSize::from_bytes(args.page) else {
        let what = format!("there are no pages of {} bytes", human::grouped(args.page));
        return Err(wrong(what, "they have 4 KiB, 2 MiB or 1 GiB").mend("--page 2MiB").into());
    };
    let offset = args.offset.unwrap_or(0);
    if !offset.is_multiple_of(page.bytes()) {
        let what = format!("no page begins at byte {}", human::grouped(offset));
        let why = format!("--offset is a multiple of the page, {} bytes", page.bytes());
        return Err(wrong(what, &why).into());
    }
    if args.measure && page != PageSize::Size4K {
        let what = "--measure counts pages of 4 KiB".to_owned();
        let why = "a file's pages in the page cache are of that size nearly everywhere";
        return Err(wrong(what, why).mend("lowtide pagetables SIZE --measure").into());
    }
    Ok(page)
}

/// The pages cost nothing (they are all the one zero page), the tables do: 100 TiB would take 200
/// GiB of them, and the kernel would kill somebody.
fn check_affordable(tables: &PageTables) -> Result<()> {
    let limits =
        MemoryLimits::read().map_err(|error| Failure::from_lines(&error, STATUS_RUNNING))?;
    let (needed, available) = (tables.bytes(), limits.available_bytes());
    if needed <= available / 2 {
        return Ok(());
    }
    let needed = human::bytes(needed);
    Err(Failure::input(format!("measuring this would fill {needed} of memory with page tables"))
        .why(format!(
            "{} are available, and at most half of that is taken",
            human::bytes(available)
        ))
        .mend("lowtide pagetables SIZE   (without --measure: the arithmetic)")
        .into())
}

fn measure(bytes: u64, tables: &PageTables) -> Result<u64> {
    check_affordable(tables)?;
    let stop = Interruptible::begin();
    let progress = Transfer::begin("touching pages", Some(bytes), 0);
    // The crate is for 64-bit machines only.
    let measured = measure_page_tables(bytes as usize, |done| {
        progress.set_done(done as u64);
        !stop.is_raised()
    })
    .map_err(|error| Failure::from_lines(&error, STATUS_RUNNING))?;
    progress.finish();
    if stop.is_raised() {
        return Err(Failure::interrupted().into());
    }
    Ok(measured.measured_bytes)
}

fn text(out: &mut impl Write, sum: &Sum, measured: Option<u64>) -> io::Result<()> {
    writeln!(
        out,
        "{} bytes ({}) in pages of {} bytes, 512 entries of 8 bytes a table\n",
        human::grouped(sum.bytes),
        human::bytes_binary(sum.bytes),
        sum.page.bytes(),
    )?;
    levels(out, sum)?;
    let lecture = sum.tables.lecture_bytes();
    writeln!(
        out,
        "\nL0 + L1: {} MiB; L2 and L3 are shared with the rest of the process",
        mib(lecture)
    )?;
    if let Some(measured) = measured {
        let exact = human::grouped(measured);
        writeln!(
            out,
            "measured: {} MiB ({exact} bytes), {}",
            mib(measured),
            off(measured, lecture)
        )?;
    }
    writeln!(out)?;
    by_page_size(out, sum.bytes)?;
    explain(out, sum)
}

/// How far a measurement is from the sum. The kernel counts whole tables, and one at each end may be
/// there already for what lies beside the mapping: of few tables that is no error of some percent.
fn off(measured: u64, lecture: u64) -> String {
    const PERCENT_FROM_TABLES: u64 = 1000;
    let (found, expected) = (measured / TABLE_BYTES, lecture / TABLE_BYTES);
    if expected >= PERCENT_FROM_TABLES {
        return format!("{:+.2} % of that", (measured as f64 / lecture as f64 - 1.0) * 100.0);
    }
    let tables = if expected == 1 { "table" } else { "tables" };
    format!(
        "{found} of {expected} {tables}: too few to measure to a percent, as tables at both ends are shared with what lies beside"
    )
}

fn levels(out: &mut impl Write, sum: &Sum) -> io::Result<()> {
    use Align::{Left, Right};
    let mut table = Table::new(&[Left, Right, Right, Right, Right, Right]);
    let here = match sum.offset {
        0 => "tables".to_owned(),
        offset => format!("from byte {}", human::grouped(offset)),
    };
    table.row(["level", "one maps", here.as_str(), "bytes", "at best", "at worst"]);
    let mut row = |label: String, span: String, count: u64, best: u64, worst: u64| {
        let bytes = PageTables { levels: [count, 0, 0, 0] }.bytes();
        let [count, bytes, best, worst] = [count, bytes, best, worst].map(human::grouped);
        table.row([label, span, count, bytes, best, worst]);
    };
    let of = |tables: &PageTables, level: usize| tables.levels[level];
    for level in 0..LEVELS {
        row(
            format!("L{level}"),
            human::bytes_binary(table_span(level)),
            of(&sum.tables, level),
            of(&sum.best, level),
            of(&sum.worst, level),
        );
    }
    let both = |tables: &PageTables| tables.levels[0] + tables.levels[1];
    let [here, best, worst] = [&sum.tables, &sum.best, &sum.worst].map(both);
    row("L0 + L1".to_owned(), String::new(), here, best, worst);
    table.write(out, "")
}

/// The same bytes in pages of all three sizes.
fn by_page_size(out: &mut impl Write, bytes: u64) -> io::Result<()> {
    use Align::{Left, Right};
    let mut table = Table::new(&[Left, Right, Right, Right, Right]);
    table.row(["pages of", "pages", "L0 + L1 at best", "at worst", "bytes at best"]);
    for page in [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G] {
        // Beyond what an address can say there is no worst case.
        let (Ok(best), Ok(worst)) = (PageTables::best(bytes, page), PageTables::worst(bytes, page))
        else {
            continue;
        };
        let both = |tables: &PageTables| human::grouped(tables.levels[0] + tables.levels[1]);
        table.row([
            human::bytes_binary(page.bytes()),
            human::grouped(bytes.div_ceil(page.bytes())),
            both(&best),
            both(&worst),
            human::grouped(best.lecture_bytes()),
        ]);
    }
    table.write(out, "")
}

fn explain(out: &mut impl Write, sum: &Sum) -> io::Result<()> {
    let page = sum.page.bytes();
    writeln!(
        out,
        "
Every page that is mapped needs an entry that says where in memory it lies: {} entries.
An entry has 8 bytes, a table is a page of 4096 bytes, so 512 entries make a table. Each table needs
an entry in a table of the level above, 512 of those make a table again, and so on up to the root.
At worst the mapping begins in the last page of a table: then it reaches into one more table at every
level. A page of 2 MiB takes the place of a whole table of L0, a page of 1 GiB that of one of L1.
A table is made when the first of its pages is touched, not when the file is mapped.",
        human::grouped(sum.bytes.div_ceil(page)),
    )
}

/// All digits: 40.078125 is the point, 40.1 is not.
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
