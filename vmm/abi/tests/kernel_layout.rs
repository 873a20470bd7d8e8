//! Our layouts against the installed kernel headers: a C program prints `sizeof` and `offsetof`,
//! and what it prints must be what Rust says.
//!
//! Needs `cc` and the user headers of Linux; what the installed headers are too old for is named
//! and skipped. `KERNEL_HEADERS` may point to newer ones (a kernel's `make headers_install`).
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::Write;
use std::mem::{offset_of, size_of};
use std::process::{Command, Stdio};

use abi::boot;
use abi::kvm;
use abi::kvm_snp;
use abi::snp;

/// One number that C must agree on.
struct Fact {
    /// What it belongs to, for skipping.
    group: &'static str,
    c: String,
    rust: u64,
}

macro_rules! layout {
    ($facts:ident, $c:literal, $rust:ty, { $($field:ident = $member:literal),* $(,)? }) => {
        $facts.push(Fact { group: $c, c: format!("sizeof({})", $c), rust: size_of::<$rust>() as u64 });
        $($facts.push(Fact {
            group: $c,
            c: format!("offsetof({}, {})", $c, $member),
            rust: offset_of!($rust, $field) as u64,
        });)*
    };
}

macro_rules! numbers {
    ($facts:ident, { $($c:literal = $rust:expr),* $(,)? }) => {
        $($facts.push(Fact { group: $c, c: $c.to_owned(), rust: $rust as u64 });)*
    };
}

fn facts() -> Vec<Fact> {
    let mut facts = Vec::new();
    layout!(facts, "struct kvm_sev_cmd", kvm_snp::SevCmd, {
        id = "id", data = "data", error = "error", sev_fd = "sev_fd",
    });
    layout!(facts, "struct kvm_sev_init", kvm_snp::SevInit, {
        vmsa_features = "vmsa_features", flags = "flags", ghcb_version = "ghcb_version",
    });
    layout!(facts, "struct kvm_sev_snp_launch_start", kvm_snp::SnpLaunchStart, {
        policy = "policy", gosvw = "gosvw", flags = "flags",
    });
    layout!(facts, "struct kvm_sev_snp_launch_update", kvm_snp::SnpLaunchUpdate, {
        gfn_start = "gfn_start", uaddr = "uaddr", len = "len", page_type = "type", flags = "flags",
    });
    layout!(facts, "struct kvm_sev_snp_launch_finish", kvm_snp::SnpLaunchFinish, {
        id_block_uaddr = "id_block_uaddr", id_auth_uaddr = "id_auth_uaddr",
        id_block_en = "id_block_en", auth_key_en = "auth_key_en", vcek_disabled = "vcek_disabled",
        host_data = "host_data", flags = "flags",
    });
    layout!(facts, "struct kvm_userspace_memory_region2", kvm::UserMemoryRegion2, {
        slot = "slot", flags = "flags", guest_phys_addr = "guest_phys_addr",
        memory_size = "memory_size", userspace_addr = "userspace_addr",
        guest_memfd_offset = "guest_memfd_offset", guest_memfd = "guest_memfd",
    });
    layout!(facts, "struct kvm_memory_attributes", kvm::MemoryAttributes, {
        address = "address", size = "size", attributes = "attributes", flags = "flags",
    });
    layout!(facts, "struct kvm_create_guest_memfd", kvm::CreateGuestMemfd, {
        size = "size", flags = "flags",
    });
    layout!(facts, "struct kvm_pre_fault_memory", kvm::PreFaultMemory, {
        gpa = "gpa", size = "size", flags = "flags",
    });
    layout!(facts, "struct kvm_device_attr", kvm::DeviceAttr, {
        flags = "flags", group = "group", attr = "attr", addr = "addr",
    });
    layout!(facts, "struct sev_issue_cmd", kvm_snp::SevIssueCmd, {
        cmd = "cmd", data = "data", error = "error",
    });
    layout!(facts, "struct sev_user_data_get_id2", kvm_snp::SevGetId2, {
        address = "address", length = "length",
    });
    layout!(facts, "struct sev_user_data_snp_status", kvm_snp::SnpPlatformStatus, {
        api_major = "api_major", api_minor = "api_minor", state = "state", build_id = "build_id",
        guest_count = "guest_count", current_tcb_version = "current_tcb_version",
        reported_tcb_version = "reported_tcb_version",
    });
    layout!(facts, "struct setup_header", boot::SetupHeader, {
        setup_sects = "setup_sects", boot_flag = "boot_flag", jump = "jump", header = "header",
        version = "version", type_of_loader = "type_of_loader", loadflags = "loadflags",
        code32_start = "code32_start", ramdisk_image = "ramdisk_image",
        ramdisk_size = "ramdisk_size", cmd_line_ptr = "cmd_line_ptr",
        initrd_addr_max = "initrd_addr_max", kernel_alignment = "kernel_alignment",
        relocatable_kernel = "relocatable_kernel", xloadflags = "xloadflags",
        cmdline_size = "cmdline_size", setup_data = "setup_data", pref_address = "pref_address",
        init_size = "init_size", kernel_info_offset = "kernel_info_offset",
    });
    layout!(facts, "struct boot_params", boot::BootParams, {
        acpi_rsdp_addr = "acpi_rsdp_addr", ext_ramdisk_image = "ext_ramdisk_image",
        ext_ramdisk_size = "ext_ramdisk_size", ext_cmd_line_ptr = "ext_cmd_line_ptr",
        cc_blob_address = "cc_blob_address", efi_info = "efi_info", e820_entries = "e820_entries",
        sentinel = "sentinel", hdr = "hdr", e820_table = "e820_table",
    });
    layout!(facts, "struct boot_e820_entry", boot::BootE820Entry, {
        addr = "addr", size = "size", kind = "type",
    });
    numbers!(facts, {
        "sizeof(struct setup_data)" = offset_of!(boot::SetupData, cc_blob_address),
        "offsetof(struct setup_data, type)" = offset_of!(boot::SetupData, kind),
        "offsetof(struct setup_data, len)" = offset_of!(boot::SetupData, len),
        "SETUP_CC_BLOB" = boot::SETUP_CC_BLOB,
        "E820_MAX_ENTRIES_ZEROPAGE" = boot::E820_MAX,
        "XLF_KERNEL_64" = boot::XLF_KERNEL_64,
        "XLF_CAN_BE_LOADED_ABOVE_4G" = boot::XLF_CAN_BE_LOADED_ABOVE_4G,
        "LOADED_HIGH" = boot::LOADED_HIGH,
        "CAN_USE_HEAP" = boot::CAN_USE_HEAP,
        "offsetof(struct kvm_run, hypercall)" = kvm::KVM_RUN_EXIT_OFFSET,
        "offsetof(struct kvm_run, hypercall.args) - 32" = offset_of!(kvm::ExitHypercall, args),
        "offsetof(struct kvm_run, hypercall.ret) - 32" = offset_of!(kvm::ExitHypercall, ret),
        "offsetof(struct kvm_run, hypercall.flags) - 32" = offset_of!(kvm::ExitHypercall, flags),
        "offsetof(struct kvm_run, memory_fault.gpa) - 32" = offset_of!(kvm::ExitMemoryFault, gpa),
        "offsetof(struct kvm_run, memory_fault.size) - 32" = offset_of!(kvm::ExitMemoryFault, size),
        "offsetof(struct kvm_run, snp_req_certs.ret) - 32" = offset_of!(kvm_snp::ExitSnpReqCerts, ret),
        "KVM_MEMORY_ENCRYPT_OP" = kvm::KVM_MEMORY_ENCRYPT_OP,
        "KVM_MEMORY_ENCRYPT_REG_REGION" = kvm_snp::KVM_MEMORY_ENCRYPT_REG_REGION,
        "KVM_MEMORY_ENCRYPT_UNREG_REGION" = kvm_snp::KVM_MEMORY_ENCRYPT_UNREG_REGION,
        "KVM_SET_USER_MEMORY_REGION2" = kvm::KVM_SET_USER_MEMORY_REGION2,
        "KVM_SET_MEMORY_ATTRIBUTES" = kvm::KVM_SET_MEMORY_ATTRIBUTES,
        "KVM_CREATE_GUEST_MEMFD" = kvm::KVM_CREATE_GUEST_MEMFD,
        "KVM_PRE_FAULT_MEMORY" = kvm::KVM_PRE_FAULT_MEMORY,
        "KVM_GET_DEVICE_ATTR" = kvm::KVM_GET_DEVICE_ATTR,
        "KVM_HAS_DEVICE_ATTR" = kvm::KVM_HAS_DEVICE_ATTR,
        "SEV_ISSUE_CMD" = kvm_snp::SEV_ISSUE_CMD,
        "KVM_SEV_INIT2" = kvm_snp::cmd::SEV_INIT2,
        "KVM_SEV_SNP_LAUNCH_START" = kvm_snp::cmd::SNP_LAUNCH_START,
        "KVM_SEV_SNP_LAUNCH_UPDATE" = kvm_snp::cmd::SNP_LAUNCH_UPDATE,
        "KVM_SEV_SNP_LAUNCH_FINISH" = kvm_snp::cmd::SNP_LAUNCH_FINISH,
        "KVM_SEV_SNP_ENABLE_REQ_CERTS" = kvm_snp::cmd::SNP_ENABLE_REQ_CERTS,
        "KVM_X86_SNP_VM" = kvm_snp::KVM_X86_SNP_VM,
        "KVM_X86_GRP_SEV" = kvm_snp::KVM_X86_GRP_SEV,
        "KVM_X86_SEV_VMSA_FEATURES" = kvm_snp::KVM_X86_SEV_VMSA_FEATURES,
        "KVM_X86_SNP_POLICY_BITS" = kvm_snp::KVM_X86_SNP_POLICY_BITS,
        "KVM_X86_SEV_SNP_REQ_CERTS" = kvm_snp::KVM_X86_SEV_SNP_REQ_CERTS,
        "KVM_CAP_GUEST_MEMFD" = kvm::KVM_CAP_GUEST_MEMFD,
        "KVM_CAP_GUEST_MEMFD_FLAGS" = kvm::KVM_CAP_GUEST_MEMFD_FLAGS,
        "KVM_CAP_VM_TYPES" = kvm::KVM_CAP_VM_TYPES,
        "KVM_CAP_MEMORY_ATTRIBUTES" = kvm::KVM_CAP_MEMORY_ATTRIBUTES,
        "KVM_CAP_MEMORY_FAULT_INFO" = kvm::KVM_CAP_MEMORY_FAULT_INFO,
        "KVM_CAP_EXIT_HYPERCALL" = kvm::KVM_CAP_EXIT_HYPERCALL,
        "KVM_CAP_PRE_FAULT_MEMORY" = kvm::KVM_CAP_PRE_FAULT_MEMORY,
        "GUEST_MEMFD_FLAG_MMAP" = kvm::GUEST_MEMFD_FLAG_MMAP,
        "GUEST_MEMFD_FLAG_INIT_SHARED" = kvm::GUEST_MEMFD_FLAG_INIT_SHARED,
        "KVM_MEMORY_ATTRIBUTE_PRIVATE" = kvm::KVM_MEMORY_ATTRIBUTE_PRIVATE,
        "KVM_MEMORY_EXIT_FLAG_PRIVATE" = kvm::KVM_MEMORY_EXIT_FLAG_PRIVATE,
        "KVM_EXIT_HYPERCALL" = kvm::KVM_EXIT_HYPERCALL,
        "KVM_EXIT_SYSTEM_EVENT" = kvm::KVM_EXIT_SYSTEM_EVENT,
        "KVM_EXIT_AP_RESET_HOLD" = kvm_snp::KVM_EXIT_AP_RESET_HOLD,
        "KVM_EXIT_MEMORY_FAULT" = kvm::KVM_EXIT_MEMORY_FAULT,
        "KVM_EXIT_SNP_REQ_CERTS" = kvm_snp::KVM_EXIT_SNP_REQ_CERTS,
        "KVM_SYSTEM_EVENT_SEV_TERM" = kvm_snp::KVM_SYSTEM_EVENT_SEV_TERM,
        "KVM_HC_MAP_GPA_RANGE" = kvm::KVM_HC_MAP_GPA_RANGE,
        "KVM_MAP_GPA_RANGE_PAGE_SZ_2M" = kvm::MapGpaAttributes::PAGE_2M,
        "KVM_MAP_GPA_RANGE_PAGE_SZ_1G" = kvm::MapGpaAttributes::PAGE_1G,
        "KVM_MAP_GPA_RANGE_ENCRYPTED" = kvm::MapGpaAttributes::ENCRYPTED,
        "KVM_SEV_SNP_PAGE_TYPE_NORMAL" = snp::PageType::NORMAL.0,
        "KVM_SEV_SNP_PAGE_TYPE_ZERO" = snp::PageType::ZERO.0,
        "KVM_SEV_SNP_PAGE_TYPE_UNMEASURED" = snp::PageType::UNMEASURED.0,
        "KVM_SEV_SNP_PAGE_TYPE_SECRETS" = snp::PageType::SECRETS.0,
        "KVM_SEV_SNP_PAGE_TYPE_CPUID" = snp::PageType::CPUID.0,
        "SNP_PLATFORM_STATUS" = kvm_snp::platform_cmd::SNP_PLATFORM_STATUS,
        "SNP_COMMIT" = kvm_snp::platform_cmd::SNP_COMMIT,
        "SNP_SET_CONFIG" = kvm_snp::platform_cmd::SNP_SET_CONFIG,
        "SNP_VLEK_LOAD" = kvm_snp::platform_cmd::SNP_VLEK_LOAD,
        "SEV_GET_ID2" = kvm_snp::platform_cmd::GET_ID2,
        "SEV_RET_POLICY_FAILURE" = snp::FirmwareStatus::POLICY_FAILURE.0,
        "SEV_RET_BAD_SIGNATURE" = snp::FirmwareStatus::BAD_SIGNATURE.0,
        "SEV_RET_BAD_MEASUREMENT" = snp::FirmwareStatus::BAD_MEASUREMENT.0,
        "SEV_RET_INVALID_PARAM" = snp::FirmwareStatus::INVALID_PARAM.0,
        "SEV_RET_INVALID_PAGE_STATE" = snp::FirmwareStatus::INVALID_PAGE_STATE.0,
        "SEV_RET_INVALID_KEY" = snp::FirmwareStatus::INVALID_KEY.0,
        "sizeof(struct snp_report_req)" = size_of::<snp::ReportReq>(),
        "sizeof(struct snp_derived_key_req)" = size_of::<snp::KeyReq>(),
        "offsetof(struct snp_derived_key_req, tcb_version)" = offset_of!(snp::KeyReq, tcb_version),
        "sizeof(struct snp_derived_key_resp)" = size_of::<snp::KeyRsp>(),
    });
    facts
}

/// Compiles a program; `None` if it does not compile.
fn compile(dir: &std::path::Path, name: &str, body: &str) -> Option<std::path::PathBuf> {
    let source = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\n#include <asm/kvm.h>\n\
         #include <linux/kvm_para.h>\n#include <linux/psp-sev.h>\n#include <linux/sev-guest.h>\n\
         #include <asm/bootparam.h>\n\
         int main(void) {{\n{body}return 0;\n}}\n"
    );
    let binary = dir.join(name);
    let mut command = Command::new("cc");
    if let Some(headers) = std::env::var_os("KERNEL_HEADERS") {
        command.arg("-isystem").arg(headers);
    }
    let mut child = command
        .args(["-w", "-x", "c", "-", "-o"])
        .arg(&binary)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    child.wait().unwrap().success().then_some(binary)
}

fn print(fact: &Fact) -> String {
    format!("printf(\"%llu\\n\", (unsigned long long)({}));\n", fact.c)
}

#[test]
fn c_agrees() {
    let dir = std::env::temp_dir().join(format!("cvmm-abi-layout-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    if compile(&dir, "empty", "").is_none() {
        println!("skipped: no C compiler or no kernel headers here");
        return;
    }
    let mut facts = facts();
    let all = |facts: &[Fact]| compile(&dir, "all", &facts.iter().map(print).collect::<String>());
    let binary = all(&facts).unwrap_or_else(|| {
        // Some headers are older than we are: find out which parts.
        let mut missing = Vec::new();
        facts.retain(|fact| {
            let known =
                !missing.contains(&fact.group) && compile(&dir, "one", &print(fact)).is_some();
            if !known {
                println!("skipped: the kernel headers here lack {}", fact.c);
                missing.push(fact.group);
            }
            known
        });
        all(&facts).expect("each part compiled alone")
    });
    let output = Command::new(binary).output().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let values: Vec<u64> = printed.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(values.len(), facts.len());
    for (fact, value) in facts.iter().zip(values) {
        assert_eq!(fact.rust, value, "{}", fact.c);
    }
    assert!(facts.len() > 20, "only {} facts could be checked", facts.len());
    println!("{} facts agree", facts.len());
}
