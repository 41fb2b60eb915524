//! Processor, memory and limits.

use lowtide_kernels::isa::Isa;
use lowtide_mapping::{
    CgroupVersion, CpuLimits, HugePages, LockLimit, MemoryLimits, SystemRoot, lock_limit,
};

use super::{Check, Verdict};
use crate::human;
use crate::probe::{buffer_bytes, memory_bandwidth};

/// Seconds that memory is read for.
const SECONDS: f64 = 0.5;

/// All of them.
pub fn checks() -> Vec<Check> {
    let limits = CpuLimits::read();
    let threads = limits.as_ref().map_or(1, CpuLimits::compute_threads);
    let processors = match limits {
        Ok(limits) => processors(&limits),
        Err(error) => Check::unknown("processors", &error),
    };
    let groups = match MemoryLimits::read() {
        Ok(limits) => vec![memory(&limits), group(&limits)],
        Err(error) => vec![Check::unknown("memory", &error)],
    };
    let huge_pages = match HugePages::read(&SystemRoot::default()) {
        Ok(found) => huge_pages(&found),
        Err(error) => Check::unknown("huge pages", &error),
    };
    let mut checks = vec![bandwidth(threads), instructions(), processors];
    checks.extend(groups);
    checks.extend([huge_pages, locks(lock_limit())]);
    checks
}

fn bandwidth(threads: usize) -> Check {
    let rate = memory_bandwidth(threads, buffer_bytes(), SECONDS);
    let finding = format!(
        "{:.1} GB/s read by {threads} threads ({:.1} in slow passes)",
        rate.high / 1e9,
        rate.low / 1e9
    );
    let name = "memory bandwidth";
    match rate.high {
        high if high >= 8e9 => Check::new(name, Verdict::Good, finding),
        _ => Check::new(name, Verdict::Fair, finding)
            .mend("all channels of memory in use? other programs that run now count too"),
    }
}

fn instructions() -> Check {
    let name = "instructions";
    let available: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    let isa = match Isa::from_env() {
        Ok(isa) => isa,
        Err(error) => return Check::unknown(name, &error),
    };
    let finding = format!("{} in use, of {}", isa.name(), available.join(", "));
    let best = Isa::detect();
    if isa.name() != best.name() {
        return Check::new(name, Verdict::Fair, finding)
            .mend("unset LOWTIDE_ISA   (the answers are the same to the bit)");
    }
    match isa {
        Isa::Scalar => Check::new(name, Verdict::Poor, finding)
            .mend("a processor with AVX2; in a virtual machine: its processor passed through"),
        _ => Check::new(name, Verdict::Good, finding),
    }
}

fn processors(limits: &CpuLimits) -> Check {
    let name = "processors";
    let quota = limits.quota.map_or_else(String::new, |quota| format!(", a quota of {quota:.1}"));
    let finding = format!(
        "{} physical cores, {} processors allowed{quota}: {} threads compute",
        limits.physical_cores,
        limits.allowed.len(),
        limits.compute_threads()
    );
    match limits.quota {
        Some(quota) if quota < limits.physical_cores as f64 => {
            Check::new(name, Verdict::Fair, finding).mend("a larger CPU quota for this container")
        }
        _ => Check::new(name, Verdict::Good, finding),
    }
}

fn memory(limits: &MemoryLimits) -> Check {
    let finding = format!(
        "{} in the machine, {} could be had now, {} of swap free",
        human::bytes(limits.host.total_bytes),
        human::bytes(limits.available_bytes()),
        human::bytes(limits.host.swap_free_bytes)
    );
    // What lowtide leaves to others is a sixteenth: below a quarter others hold most of it.
    if limits.available_bytes() < limits.effective_bytes() / 4 {
        return Check::new("memory", Verdict::Fair, finding)
            .mend("end what holds the rest, or give --memory by hand");
    }
    Check::new("memory", Verdict::Good, finding)
}

fn group(limits: &MemoryLimits) -> Check {
    let name = "control group";
    let version = match limits.version {
        None => {
            return Check::new(name, Verdict::Good, "no memory group: the machine is the limit");
        }
        Some(CgroupVersion::V1) => "v1",
        Some(CgroupVersion::V2) => "v2",
    };
    let charge = limits.own().and_then(|group| group.usage_bytes);
    let charge = charge.map_or_else(String::new, |b| format!(", charged {} now", human::bytes(b)));
    let Some((tightest, bound)) = limits.tightest().and_then(|group| Some((group, group.bound()?)))
    else {
        return Check::new(name, Verdict::Good, format!("{version}, no limit{charge}"));
    };
    let finding = format!(
        "{version}, limit {} ({bound} bytes) by {}{charge}",
        human::bytes(bound),
        tightest.path.display()
    );
    match tightest.oom_kills {
        Some(kills) if kills > 0 => {
            Check::new(name, Verdict::Poor, format!("{finding}, {kills} killed for lack of memory"))
                .mend("a smaller --memory: other programs of the group need their share")
        }
        _ => Check::new(name, Verdict::Good, finding),
    }
}

fn huge_pages(found: &HugePages) -> Check {
    let name = "huge pages";
    let pool = match (found.pool_pages, found.pool_page_bytes) {
        (0, _) | (_, None) => String::new(),
        (pages, Some(bytes)) => {
            format!(", a pool of {pages} of {}", human::bytes_binary(bytes))
        }
    };
    let Some(setting) = &found.transparent else {
        return Check::new(name, Verdict::Fair, format!("not in this kernel{pool}"))
            .mend("a kernel with transparent huge pages: fewer page tables for the ring");
    };
    let finding = format!("transparent ones: {setting}{pool}");
    match setting.as_str() {
        "never" => Check::new(name, Verdict::Fair, finding)
            .mend("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
        _ => Check::new(name, Verdict::Good, finding),
    }
}

fn locks(limit: LockLimit) -> Check {
    let name = "mlock limit";
    match limit {
        LockLimit::Unlimited => Check::new(name, Verdict::Good, "unlimited"),
        LockLimit::Bytes(bytes) => Check::new(
            name,
            Verdict::Fair,
            format!("{}: weights that stay cannot all be locked", human::bytes_binary(bytes)),
        )
        .mend("ulimit -l unlimited   (without it other programs can push weights out; they come back)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_are_in_the_way_have_mends() {
        let never = HugePages { transparent: Some("never".into()), ..Default::default() };
        assert!(huge_pages(&never).mend.is_some_and(|mend| mend.contains("madvise")));
        let asked = HugePages { transparent: Some("madvise".into()), ..Default::default() };
        assert_eq!(huge_pages(&asked).verdict, Verdict::Good);
        assert_eq!(locks(LockLimit::Unlimited).verdict, Verdict::Good);
        assert_eq!(locks(LockLimit::Bytes(8 << 20)).verdict, Verdict::Fair);
        let limits = CpuLimits { allowed: vec![0, 1], physical_cores: 2, quota: Some(1.0) };
        assert_eq!(processors(&limits).verdict, Verdict::Fair);
    }
}
