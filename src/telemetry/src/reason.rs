//! Every reason for which a call is left to the original, or a file is not used.

use crate::live::REASONS;

const _: () = assert!(Reason::COUNT <= REASONS);

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a call, or the whole process, is left to the original, or the calibration file is not
        /// used. Each one is counted.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in statistics and log lines.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// The operation is not one that this library computes.
    OpNotSupported = "op_not_supported",
    /// No kernel for this weight type.
    TypeNotSupported = "type_not_supported",
    /// No kernel for these dimensions or strides.
    ShapeNotSupported = "shape_not_supported",
    /// The activations are not F32.
    Src1NotF32 = "src1_not_f32",
    /// The weights are a permuted or transposed view.
    Src0Permuted = "src0_permuted",
    /// The result is not F32.
    DstNotF32 = "dst_not_f32",
    /// `GGML_HINT_SRC0_IS_HADAMARD`: ggml has a fast transform for it.
    HadamardHint = "hadamard_hint",
    /// The weights lie in a repacked layout (`src0->extra` is set).
    Repacked = "repacked",
    /// The weights lie in a buffer type that is not known to hold plain host memory.
    HostBufferUnknown = "host_buffer_unknown",
    /// The caller asked for ggml's reference computation.
    UseRef = "use_ref",
    /// The call came outside a graph whose nodes are known.
    NoGraphContext = "no_graph_context",
    /// The graph has more nodes than the plan can hold.
    PlanFull = "plan_full",
    /// More threads than per-thread state was made for.
    TooManyThreads = "too_many_threads",
    /// Scratch memory could not be allocated.
    OutOfMemory = "out_of_memory",
    /// The structures of the loaded ggml are not those this library was compiled for.
    AbiMismatch = "abi_mismatch",
    /// A function of ggml gave what it gives in no release: no string for a name, another size of a known type, no buffer.
    GgmlAnswerOdd = "ggml_answer_odd",
    /// A graph, its plan, or what a thread is called with, is not what ggml makes: null where something must be, or a
    /// number out of range.
    GraphOdd = "graph_odd",
    /// The result of an operation lies in a part of the memory of a source, or in that of a source with another layout.
    ResultOverlaps = "result_overlaps",
    /// An operation without the sources that it is computed from.
    SourceMissing = "source_missing",
    /// The original of a hooked function was not found in the loaded ggml.
    OriginalMissing = "original_missing",
    /// A function for rows whose signature, or whose types, are not those this library knows.
    SignatureUnknown = "signature_unknown",
    /// A function for rows gives other results than ours, in a trial at its first call.
    OriginalDiffers = "original_differs",
    /// Measured: ggml's own kernel is faster for this type and shape.
    StockIsFaster = "stock_is_faster",
    /// Measured: neither kernel is clearly faster, and for float weights nothing else speaks for ours.
    NotFaster = "not_faster",
    /// Nobody measured whether our kernel or ggml's is faster here, and `ZEN5TURBO_KERNELS` does not name ours;
    /// `zen5turbo tune` decides it.
    Unmeasured = "unmeasured",
    /// `ZEN5TURBO_KERNELS=off`.
    KernelsOff = "kernels_off",
    /// `ZEN5TURBO_KERNELS=exact`: ours does not give the bits of ggml's own, or nobody can prove that it does.
    KernelsExact = "kernels_exact",
    /// `ZEN5TURBO_INVARIANT=1`, but ggml computes this, and its result may depend on the batch or on the threads.
    OrderNotKept = "order_not_kept",
    /// `ZEN5TURBO_ATTENTION=off`.
    AttentionOff = "attention_off",
    /// `ZEN5TURBO_GATE=passthrough`.
    GatePassthrough = "gate_passthrough",
    /// The process has a seccomp filter, or the kernel does not tell. Since it may kill, no call is made that the C library
    /// and ggml do not make: background threads keep the CPUs and the niceness of the thread that starts them, weights are
    /// placed on NUMA nodes only where that was asked for.
    SeccompFilter = "seccomp_filter",
    /// A defect in this library was caught; the original computed instead.
    InternalError = "internal_error",
    /// The parameters of ggml's thread pools are not where this library knows them: pools stay as the program makes them.
    PoolParamsUnknown = "pool_params_unknown",
    /// More thread pools than the table of them has room for.
    PoolTableFull = "pool_table_full",
    /// A function for pools was called by a pointer, and several copies of ggml have one: whose it is is not known.
    PoolOwnerUnknown = "pool_owner_unknown",
    /// NUMA: sysfs or procfs does not tell the nodes, CPUs or affinity.
    TopologyUnknown = "topology_unknown",
    /// NUMA: memory or threads were placed by somebody else, and `ZEN5TURBO_NUMA=auto` leaves it alone.
    NumaPlacedElsewhere = "numa_placed_elsewhere",
    /// NUMA: get_mempolicy, set_mempolicy or mbind was refused, or not tried under a seccomp filter; nothing more is placed.
    NumaRefused = "numa_refused",
    /// NUMA: sharding needs threads that stay on their node, and they are not pinned.
    ShardNeedsPinning = "shard_needs_pinning",
    /// Pinning: the program pins its threads itself.
    PinnedByProgram = "pinned_by_program",
    /// Pinning: there are not enough cores, or CPUs in the list, for the threads of a graph.
    PinTooManyThreads = "pin_too_many_threads",
    /// Pinning: graphs ran at the same time.
    PinConcurrentGraphs = "pin_concurrent_graphs",
    /// Pinning: the list names CPUs that this process may not use.
    PinCpuNotAllowed = "pin_cpu_not_allowed",
    /// Pinning: sched_setaffinity or sched_getaffinity was refused.
    PinRefused = "pin_refused",
    /// No address was to be had at which huge pages can lie, so a model is mapped unchanged.
    MappingNotPlaced = "mapping_not_placed",
    /// Another library has a `munmap` or `mremap` before ours: when a model is unmapped would not be known, so it is mapped unchanged.
    UnmappingUnseen = "unmapping_unseen",
    /// The model's file could not be opened a second time, so it is not read ahead and gets no copies.
    FileNotReopened = "file_not_reopened",
    /// The thread that copies weights could not be started.
    CopierNotStarted = "copier_not_started",
    /// No page of 2 MiB is free in the hugetlb pool: smaller ones from here on.
    Hugetlb2mMissing = "hugetlb_2m_missing",
    /// The same for 1 GiB.
    Hugetlb1gMissing = "hugetlb_1g_missing",
    /// Products do not read the whole of each 1 GiB of weights, as in a small model: smaller pages there.
    Weights1gInPart = "weights_1g_in_part",
    /// The kernel refused memory for a copy of weights.
    CopyOutOfMemory = "copy_out_of_memory",
    /// Not enough memory is available for (all) weights on pages of their own, or somebody waits for memory.
    MemoryBudget = "memory_budget",
    /// Memory became short, and copies of weights were given back.
    MemoryPressure = "memory_pressure",
    /// The process has too many mappings already (`vm.max_map_count`).
    TooManyMappings = "too_many_mappings",
    /// The program has memory locked (`mlock`), and a limit of it: what a copy of weights would lock, the program could be refused. Or it
    /// has the weights themselves locked: they stay in memory beside their copy.
    MemoryLocked = "memory_locked",
    /// The descriptor of the model file is another file's: the program closed what it had not opened.
    FileChanged = "file_changed",
    /// The model file could not be read, or is shorter than its mapping.
    FileUnreadable = "file_unreadable",
    /// The models are larger than the memory they may take: a part of them stays, the rest is read ahead.
    ModelLargerThanMemory = "model_larger_than_memory",
    /// Releasing pages behind the products did not have less read from the disk: the kernel decides alone what stays.
    ReleasingGainsNothing = "releasing_gains_nothing",
    /// The kernel reads a model again and again, and neither `/proc/meminfo` nor a control group tells how much memory there
    /// is: it is left to the kernel.
    MemoryUnknown = "memory_unknown",
    /// The model file lies in memory (tmpfs, ramfs): nothing is read ahead.
    FileInMemory = "file_in_memory",
    /// The kernel does not tell what it has of the model file in memory (overlayfs, FUSE): it is read ahead in any case.
    PageCacheUnknown = "page_cache_unknown",
    /// The thread that reads ahead could not be started.
    ReaderNotStarted = "reader_not_started",
    /// The kernel refused to read ahead; nothing more is.
    ReadAheadRefused = "read_ahead_refused",
    /// The calibration file cannot be read.
    TuneUnreadable = "tune_unreadable",
    /// A line of the calibration file was not understood.
    TuneBadFile = "tune_bad_file",
    /// The calibration file was made on another CPU.
    TuneOtherCpu = "tune_other_cpu",
    /// The calibration file was made for another tier of kernels.
    TuneOtherTier = "tune_other_tier",
    /// The calibration file was made with another version of ggml.
    TuneOtherGgml = "tune_other_ggml",
    /// ggml tells no version (Ollama 0.12 to 0.24): a calibration file made with such a build fits every other one that was
    /// compiled for the same instructions.
    GgmlVersionUnknown = "ggml_version_unknown",
    /// Reserved huge pages could not be faulted in: a limit of the cgroup, or a kernel before 5.14.
    HugetlbNotPopulated = "hugetlb_not_populated",
    /// `/sys/kernel/mm/transparent_hugepage/enabled` is `never`, or there is no such file.
    ThpNever = "thp_never",
    /// Transparent huge pages are switched off for this process.
    ThpOffForProcess = "thp_off_for_process",
    /// The kernel refused the advice to use transparent huge pages.
    ThpRefused = "thp_refused",
    /// No room for a buffer of our own.
    BufferNotMapped = "buffer_not_mapped",
    /// More buffers than the table of our own has room for.
    BufferTableFull = "buffer_table_full",
    /// A large buffer was asked for by code that may release it with `free`.
    BufferFreedElsewhere = "buffer_freed_elsewhere",
    /// Large blocks of the heap are not advised: the allocator is not glibc's.
    ForeignAllocator = "foreign_allocator",
    /// Measured: libc's own copy is as fast as the streaming one.
    LibcCopyIsFaster = "libc_copy_is_faster",
    /// The file with the measured choice of copies cannot be used, or cannot be written.
    CopyFileUnusable = "copy_file_unusable",
    /// A ggml from before December 2024, which does not ask before it computes: nothing can be taken over.
    NoOperationHook = "no_operation_hook",
    /// The CPU backend calls the operation hook inside its library (`-Bsymbolic`, link-time optimisation): nothing can be
    /// taken over, and llama.cpp keeps its repacked layout.
    HookOutOfReach = "hook_out_of_reach",
    /// This ggml has a BLAS backend, which is to compute prompts (`ZEN5TURBO_BLAS`) or is not as it is known here. It would
    /// take those of weights that are not repacked, too: llama.cpp keeps its layout.
    RepackKeptForBlas = "repack_kept_for_blas",
    /// The library that `ZEN5TURBO_BLAS` names cannot be opened.
    BlasNotLoaded = "blas_not_loaded",
    /// It is not a BLIS library: a function is missing.
    BlasSymbolsMissing = "blas_symbols_missing",
    /// Its integers are not those that ggml calls with.
    BlasIntegersDiffer = "blas_integers_differ",
    /// The kernel refused the shared memory of the live statistics; there are none.
    LiveRefused = "live_refused",
    /// The names of the live statistics have no room in it.
    LiveTextTooLong = "live_text_too_long",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_snake_case_and_numbers_match_positions() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            let name = reason.as_str();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            assert_eq!(Reason::ALL.iter().filter(|r| r.as_str() == name).count(), 1, "{name}");
        }
    }
}
