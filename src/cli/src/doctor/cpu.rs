//! CPU, gate, kernels and the shim itself.

use std::path::PathBuf;

use anyhow::Result;
use zen5turbo_config::{Complaint, KernelChoice};
use zen5turbo_host::cpu::{XCR0_AVX, XCR0_AVX512};
use zen5turbo_host::{Cpu, GateDecision, Masked, Tier, best_tier, gate};
use zen5turbo_kernels::width::{self, Width};

use super::check::Check;
use crate::elf::Elf;
use crate::knobs::Settings;

/// The model, and what the gate says of it.
pub fn gate_checks(cpu: &Cpu, settings: &Settings) -> Vec<Check> {
    let model = format!("{}, stepping {}", cpu.describe(), cpu.stepping);
    let mode = settings.config().gate;
    let said = format!("{} (ZEN5TURBO_GATE={})", gate(cpu, mode).as_str(), mode.as_str());
    const ZEN5: &str = "an AMD Zen 5 (AuthenticAMD, family 1Ah, model 00h-2Fh, 40h-4Fh or 60h-7Fh) with AVX-512";
    let model = if cpu.is_zen5() {
        Check::ok("cpu.model", model)
    } else {
        match cpu.masked() {
            None => Check::limited("cpu.model", model, ZEN5, "nothing; other CPUs run with ZEN5TURBO_GATE=off"),
            Some(masked) => Check::limited("cpu.model", format!("{model}; {}", behind(&masked)), ZEN5, PASS_THROUGH),
        }
    };
    let gate = match gate(cpu, mode) {
        GateDecision::Run => Check::ok("gate", said),
        GateDecision::Passthrough { line } | GateDecision::Refuse { line } => {
            // What follows the first semicolon is for a program that was started.
            let found = line.split(';').next().unwrap_or_default();
            let (expected, todo) = if cpu.is_zen5() {
                ("ZEN5TURBO_GATE not set, or strict", "unset ZEN5TURBO_GATE")
            } else {
                let todo = "set ZEN5TURBO_GATE=off (or run --gate off) to use the best kernels of this CPU";
                ("an AMD Zen 5, or ZEN5TURBO_GATE=off", todo)
            };
            Check::no("gate", format!("{said}: {found}"), expected, todo)
        }
    };
    vec![model, gate]
}

/// What to do in a virtual machine.
const PASS_THROUGH: &str = "pass the CPU through (QEMU: -cpu host; libvirt: mode='host-passthrough'; Proxmox: type host), or set \
                            ZEN5TURBO_GATE=off, which uses the best kernels that the virtual CPU allows";

/// Which CPU the host of a virtual machine has, as far as it can be told.
fn behind(masked: &Masked) -> String {
    match masked {
        Masked::LikeZen5(what) => format!(
            "the family may be masked: of AMD's CPUs, only those since Zen 5 have {}, so the host is probably a Zen 5",
            what.join(", ")
        ),
        Masked::MadeUp(why) => {
            format!("{why} belongs to a model that virtual machines make up: the host may be a Zen 5")
        }
    }
}

/// Instructions, the registers that the operating system enabled, and the kernels that follow from them.
pub fn feature_checks(cpu: &Cpu, settings: &Settings) -> Vec<Check> {
    let claimed = cpu.features.iter().zip(cpu.claimed.iter()).filter(|(_, (_, claimed))| *claimed);
    let (usable, hidden): (Vec<_>, Vec<_>) = claimed.map(|(feature, _)| feature).partition(|(_, usable)| *usable);
    let names = |list: &[(&str, bool)]| list.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ");
    let features = if hidden.is_empty() {
        Check::ok("cpu.features", names(&usable))
    } else {
        Check::limited(
            "cpu.features",
            format!("{}; not enabled by the operating system: {}", names(&usable), names(&hidden)),
            "every instruction set of the CPU enabled in XCR0",
            "enable it in the hypervisor or the kernel (no clearcpuid=, noxsave, or a CPU model that hides it)",
        )
    };
    let state = cpu.xcr0;
    let needed = if cpu.claimed.avx512f { XCR0_AVX512 } else { XCR0_AVX };
    let xcr0 = if state & needed == needed {
        Check::ok("cpu.xcr0", format!("{state:#x}"))
    } else {
        let expected = format!("the bits {needed:#x} set: the operating system saves the vector registers");
        Check::limited("cpu.xcr0", format!("{state:#x}"), expected, "enable AVX state in the hypervisor or the kernel")
    };
    vec![features, xcr0, tier(cpu, settings)]
}

fn tier(cpu: &Cpu, settings: &Settings) -> Check {
    const ID: &str = "cpu.kernels";
    let best = best_tier(cpu);
    let asked = settings.config().kernels;
    let most = match asked {
        KernelChoice::Off => {
            return Check::no(
                ID,
                "ZEN5TURBO_KERNELS=off: nothing is taken over",
                "another value",
                "unset ZEN5TURBO_KERNELS",
            );
        }
        KernelChoice::Avx2 => Tier::Avx2,
        KernelChoice::Scalar => Tier::Scalar,
        KernelChoice::Auto | KernelChoice::Exact | KernelChoice::Avx512 | KernelChoice::Avx512Narrow => {
            Tier::Avx512Vnni
        }
    };
    let used = best.min(most);
    let asked = asked.as_str();
    let found = format!("{} (ZEN5TURBO_KERNELS={asked}; the best this CPU has is {})", used.as_str(), best.as_str());
    match used {
        Tier::Avx512Vnni => Check::ok(ID, found),
        _ if used < best => Check::limited(ID, found, "the best kernels of this CPU", "unset ZEN5TURBO_KERNELS"),
        _ => Check::limited(
            ID,
            found,
            "AVX-512 VNNI",
            "nothing; this CPU does not have it (or hides it, see cpu.features)",
        ),
    }
}

/// Whether 512-bit registers are the faster ones here, as the shim measures it at its start.
pub fn width_check(measured: Option<Width>) -> Check {
    const ID: &str = "cpu.width";
    let Some(width) = measured else {
        return Check::limited(
            ID,
            "not measured: no AVX-512 VNNI",
            "512-bit data paths",
            "nothing; the kernels for 256 bits are used",
        );
    };
    let ratio = width.bits256 as f64 / width.bits512.max(1) as f64;
    let found = format!(
        "512-bit kernels {ratio:.2} times as fast as 256-bit ones (Q4_K, {} and {} ticks)",
        width.bits512, width.bits256
    );
    if ratio >= FULL {
        return Check::ok(ID, format!("full 512-bit data paths: {found}"));
    }
    let used = if width.is_narrow() { "256" } else { "512" };
    Check::limited(
        ID,
        format!("no full 512-bit data paths: {found}"),
        format!("at least {FULL}; mobile parts, Zen 4 and shared cores split 512-bit operations"),
        format!("nothing; ZEN5TURBO_KERNELS=auto uses {used} bits"),
    )
}

/// Parts that split 512-bit operations gain what fewer instructions save: 1.03 to 1.22 on nine tries of a
/// Zen 4 (EPYC, two virtual cores with other load, 2026-11-21). Full data paths double the rate of the
/// products; what that makes of the whole kernel has not been measured on a Zen 5 yet.
const FULL: f64 = 1.4;

/// Measures it.
pub fn measure_width() -> Option<Width> {
    width::measure()
}

/// The library.
pub fn library_check(library: &Result<PathBuf>) -> Check {
    const ID: &str = "shim";
    let path = match library {
        Ok(path) => path,
        Err(error) => {
            let todo = "build it (cargo build --release) or name it with --lib FILE or SHIM_LIB=FILE";
            return Check::no(ID, format!("{error:#}"), "libzen5turbo.so", todo);
        }
    };
    const EXPECTED: &str = "libzen5turbo.so, which exports zen5turbo_version";
    match Elf::read(path, &["zen5turbo_version"]) {
        Ok(elf) if elf.symbol("zen5turbo_version").exported => Check::ok(ID, path.display().to_string()),
        Ok(_) => {
            Check::no(ID, format!("{} is another library", path.display()), EXPECTED, "name the right file with --lib")
        }
        Err(error) => Check::no(ID, format!("{error:#}"), EXPECTED, "name the right file with --lib"),
    }
}

/// The variables of the shim.
pub fn setting_checks(settings: &Settings) -> Vec<Check> {
    let complaints = settings.complaints();
    let mut checks = Vec::new();
    for (name, value) in settings.iter() {
        let given = format!("{name}={value}");
        let id = format!("setting:{name}");
        checks.push(match complaints.iter().find(|complaint| complaint.name == *name) {
            Some(Complaint { expected, .. }) => {
                Check::limited(&id, given, expected, "correct it; the shim uses the default")
            }
            None if given == "ZEN5TURBO=0" => {
                let found = format!("{given}: the shim is switched off");
                Check::no(&id, found, "ZEN5TURBO not set, or 1", "unset ZEN5TURBO")
            }
            None => Check::ok(&id, given),
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Status;
    use zen5turbo_host::Features;

    fn settings(list: &[(&str, &str)]) -> Settings {
        Settings::of(list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
    }

    fn cpu(family: u8, xcr0: u64) -> Cpu {
        let claimed = Features {
            avx2: true,
            fma: true,
            f16c: true,
            bmi2: true,
            avx512f: true,
            avx512bw: true,
            avx512dq: true,
            avx512vl: true,
            avx512vnni: true,
            ..Features::default()
        };
        let features = claimed.enabled_by(xcr0);
        Cpu { vendor: "AuthenticAMD".into(), family, model: 0x11, features, claimed, xcr0, ..Cpu::default() }
    }

    fn statuses(checks: &[Check]) -> Vec<Status> {
        checks.iter().map(|check| check.status).collect()
    }

    #[test]
    fn the_gate_decides_by_cpu_and_setting() {
        use Status::{Limited, No, Ok};
        let off = settings(&[("ZEN5TURBO_GATE", "off")]);
        let through = settings(&[("ZEN5TURBO_GATE", "passthrough")]);
        assert_eq!(statuses(&gate_checks(&cpu(0x1A, 0xE7), &settings(&[]))), [Ok, Ok]);
        assert_eq!(statuses(&gate_checks(&cpu(0x19, 0xE7), &settings(&[]))), [Limited, No]);
        assert_eq!(statuses(&gate_checks(&cpu(0x19, 0xE7), &through)), [Limited, No]);
        let zen5 = gate_checks(&cpu(0x1A, 0xE7), &through);
        assert_eq!(statuses(&zen5), [Ok, No]);
        assert_eq!(zen5[1].remedy.as_deref(), Some("unset ZEN5TURBO_GATE"));
        assert_eq!(statuses(&gate_checks(&cpu(0x19, 0xE7), &off)), [Limited, Ok]);
        let hidden = gate_checks(&cpu(0x1A, 0x7), &settings(&[]));
        assert_eq!(statuses(&hidden), [Limited, No]);
        assert!(hidden[1].found.contains("XCR0 is 0x7"), "{hidden:?}");
    }

    #[test]
    fn a_zen5_behind_a_virtual_cpu_is_told_as_what_it_may_be() {
        let told = |cpu: &Cpu| gate_checks(cpu, &settings(&[])).remove(0);
        let plain = told(&cpu(0x19, 0xE7));
        assert!(!plain.found.contains("host") && plain.remedy.unwrap().starts_with("nothing"));
        let like = told(&Cpu { l1d_kib: 48, ..cpu(0x19, 0xE7) });
        assert!(like.found.contains("family 19h") && like.found.contains("probably a Zen 5"), "{like:?}");
        let made_up = told(&Cpu { brand: "QEMU Virtual CPU version 2.5+".into(), ..cpu(0x0F, 0xE7) });
        assert!(made_up.found.contains("the host may be a Zen 5"), "{made_up:?}");
        for check in [like, made_up] {
            assert!(check.status == Status::Limited && check.remedy.unwrap().contains("-cpu host"));
        }
    }

    #[test]
    fn registers_that_are_not_enabled_are_named_with_what_they_cost() {
        use Status::{Limited, No, Ok};
        assert_eq!(statuses(&feature_checks(&cpu(0x1A, 0xE7), &settings(&[]))), [Ok, Ok, Ok]);
        let checks = feature_checks(&cpu(0x1A, 0x7), &settings(&[]));
        assert_eq!(statuses(&checks), [Limited, Limited, Limited]);
        assert!(checks[0].found.contains("not enabled by the operating system: avx512f"), "{checks:?}");
        assert!(checks[2].found.starts_with("avx2 "), "{checks:?}");
        let off = settings(&[("ZEN5TURBO_KERNELS", "off")]);
        assert_eq!(statuses(&feature_checks(&cpu(0x1A, 0xE7), &off)), [Ok, Ok, No]);
        let less = settings(&[("ZEN5TURBO_KERNELS", "scalar")]);
        assert_eq!(statuses(&feature_checks(&cpu(0x1A, 0xE7), &less)), [Ok, Ok, Limited]);
    }

    #[test]
    fn the_width_is_judged_by_its_measurement() {
        assert_eq!(width_check(None).status, Status::Limited);
        let full = width_check(Some(Width { bits512: 1000, bits256: 1800 }));
        assert!(full.status == Status::Ok && full.found.contains("1.80"), "{full:?}");
        let split = width_check(Some(Width { bits512: 1000, bits256: 1050 }));
        assert!(split.status == Status::Limited && split.remedy.unwrap().contains("uses 512 bits"));
        let narrow = width_check(Some(Width { bits512: 1000, bits256: 800 }));
        assert!(narrow.remedy.unwrap().contains("uses 256 bits"));
    }

    #[test]
    fn settings_are_listed_with_what_is_wrong_in_them() {
        let list = [("ZEN5TURBO", "0"), ("ZEN5TURBO_LOG", "loud"), ("ZEN5TURBO_REPACK", "keep")];
        let checks = setting_checks(&settings(&list));
        assert_eq!(statuses(&checks), [Status::No, Status::Limited, Status::Ok]);
        assert_eq!(checks[1].expected.as_deref(), Some("off, info or debug"));
    }
}
