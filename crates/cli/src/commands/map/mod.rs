//! `lowtide map`: where a model's pages are: on the disk, in the page cache, in a process.

mod document;
pub mod kind;
pub mod layout;
pub mod picture;
pub mod png;
pub mod strip;
mod survey;
pub mod svg;
mod terminal;
mod text;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;
use lowtide_mapping::{MemoryLimits, PageTables, Process, measure_page_tables};

use self::layout::Layout;
use self::survey::Survey;
use self::terminal::Style;
use crate::args::MapArgs;
use crate::failure::{Failure, one_line};
use crate::human;
use crate::out_file::{OutFile, check_apart};
use crate::output::Stdout;
use crate::signals::Interruptible;
use crate::store::{Store, resolve};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How long Ctrl-C may take to be seen meanwhile.
const WATCH_STEP: Duration = Duration::from_millis(50);

/// Looks, and shows what it saw.
pub fn map(args: &MapArgs) -> Result<()> {
    let path = resolve::model(&Store::locate(), &args.model)?;
    let layout = Layout::read(&path)?;
    check_layers(&layout)?;
    let process = args.pid.map_or_else(Process::this, Process::with_id);
    if args.watch {
        return watch(&layout, &process, args.pid);
    }
    let pictures = Pictures::begin(args)?;
    let survey = Survey::take(&layout, &process, args.pid)?;
    if args.pid.is_some() && survey.mappings().next().is_none() {
        return Err(Failure::input(format!(
            "{process} ({}) does not map {}",
            one_line(&survey.program),
            path.display()
        ))
        .why("it has read the file in another way, or has not begun to, or is another program")
        .mend("lowtide map MODEL   (without --pid: the page cache)")
        .into());
    }
    pictures.write(&layout, &survey)?;
    let measured = measure(&layout);
    if args.json {
        let mut document = document::document(&layout, &survey, measured);
        document["process"]["pid"] = args.pid.into();
        Stdout::lock().json(&document)?;
        return Ok(());
    }
    let mut out = Stdout::lock();
    text::tensors(&mut out, &layout, &survey, !args.brief)?;
    writeln!(out)?;
    head(&mut out, &layout)?;
    terminal::draw(&mut out, &layout, &survey, Style::of_stdout())?;
    writeln!(out)?;
    text::sums(&mut out, &layout, &survey, measured)?;
    out.finish()?;
    Ok(())
}

/// Rows and columns are made for layers: a name that claims a billionth one is no model's.
fn check_layers(layout: &Layout) -> Result<()> {
    const LAYERS_MAX: u32 = 10_000;
    if layout.layers <= LAYERS_MAX {
        return Ok(());
    }
    let path = layout.shards.first().map(|file| file.path().display().to_string());
    Err(Failure::input(format!("{} has no layers to draw", path.unwrap_or_default()))
        .why(format!("a tensor is named as of layer {}", layout.layers - 1))
        .mend("lowtide inspect MODEL")
        .into())
}

fn head(out: &mut impl Write, layout: &Layout) -> io::Result<()> {
    let path = layout.shards.first().map(|file| file.path().display().to_string());
    writeln!(
        out,
        "{}  {}, {}, {} layers, {} tensors\n",
        one_line(&path.unwrap_or_default()),
        human::bytes(layout.file_bytes()),
        one_line(&layout.architecture),
        layout.layers,
        layout.tensors()
    )
}

/// Files that are asked for; begun before anything is looked at, so that a path which cannot be
/// written is said at once.
struct Pictures {
    svg: Option<OutFile>,
    png: Option<OutFile>,
}

impl Pictures {
    fn begin(args: &MapArgs) -> Result<Self> {
        let svg = args.svg.iter().map(|path| ("--svg", path.as_path()));
        check_apart(svg.chain(args.png.iter().map(|path| ("--png", path.as_path()))))?;
        let svg = args.svg.as_deref().map(|path| OutFile::create(path, "--svg")).transpose()?;
        let png = args.png.as_deref().map(|path| OutFile::create(path, "--png")).transpose()?;
        Ok(Self { svg, png })
    }

    fn write(self, layout: &Layout, survey: &Survey) -> Result<()> {
        if self.svg.is_none() && self.png.is_none() {
            return Ok(());
        }
        let picture = picture::picture(layout, survey);
        if let Some(file) = self.svg {
            file.fill(|out| svg::svg(&picture, out))?;
        }
        if let Some(file) = self.png {
            let bytes = png::png(&picture)
                .map_err(|error| Failure::running("the picture cannot be encoded").why(error))?;
            file.put(&bytes)?;
        }
        Ok(())
    }
}

/// The page tables of as many pages, by the kernel's count; `None` where they would take too much
/// memory, or the kernel refuses.
fn measure(layout: &Layout) -> Option<u64> {
    let bytes = layout.file_bytes();
    let needed = PageTables::best(bytes, lowtide_mapping::PageSize::Size4K).ok()?.bytes();
    if needed > MemoryLimits::read().ok()?.available_bytes() / 8 {
        return None;
    }
    let measured = measure_page_tables(usize::try_from(bytes).ok()?, |_| true).ok()?;
    Some(measured.measured_bytes)
}

/// Draws again every second, until Ctrl-C or until the process ends.
fn watch(layout: &Layout, process: &Process, id: Option<u32>) -> Result<()> {
    let stop = Interruptible::begin();
    let on_terminal = io::stdout().is_terminal();
    let mut first = true;
    while !stop.is_raised() {
        let survey = match Survey::take(layout, process, id) {
            Ok(survey) => survey,
            Err(error) if first => return Err(error),
            // It has ended.
            Err(_) => return Ok(()),
        };
        let mut out = Stdout::lock();
        match (on_terminal, first) {
            (true, _) => write!(out, "\x1b[H\x1b[2J")?,
            (false, true) => {}
            (false, false) => writeln!(out)?,
        }
        head(&mut out, layout)?;
        terminal::draw(&mut out, layout, &survey, Style::of_stdout())?;
        writeln!(out)?;
        text::sums(&mut out, layout, &survey, None)?;
        out.finish()?;
        first = false;
        let begun = Instant::now();
        while begun.elapsed() < WATCH_EVERY && !stop.is_raised() {
            std::thread::sleep(WATCH_STEP);
        }
    }
    Err(Failure::interrupted().into())
}
