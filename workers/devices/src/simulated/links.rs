//! What simulated GPUs say of their ways to each other.

use protocol::{
    GpuId,
    gpu::{GpuLink, LinkPath},
};

/// How the simulated GPUs of a host are joined, those of each group in a row. It says nothing of how fast copies between them are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkGroups {
    /// So many are joined by NVLink. 0: none.
    pub nvlink: usize,
    /// So many sit behind one PCI Express switch; the others reach each other across the system. 0: none.
    pub switch: usize,
    /// Whether each can read and write the others' memory.
    pub peer_access: bool,
}

impl LinkGroups {
    /// The ways from one of these GPUs, by its number, to the others. None where there are no groups.
    #[must_use]
    pub fn links_of(&self, gpus: &[GpuId], number: usize) -> Vec<GpuLink> {
        if self.nvlink == 0 && self.switch == 0 {
            return Vec::new();
        }
        let together = |size: usize, other: usize| size > 0 && number / size == other / size;
        let link = |(other, gpu_id): (usize, &GpuId)| {
            let (path, nvlinks) = match other {
                _ if together(self.nvlink, other) => (LinkPath::Nvlink, 1),
                _ if together(self.switch, other) => (LinkPath::PcieSwitch, 0),
                _ => (LinkPath::System, 0),
            };
            GpuLink { gpu_id: gpu_id.clone(), path, nvlinks, peer_access: self.peer_access }
        };
        gpus.iter().enumerate().filter(|(other, _)| *other != number).map(link).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_of_a_group_are_near_and_others_far() {
        let gpus: Vec<GpuId> = (0..8).map(|number| GpuId::new(format!("sim-{number}")).unwrap()).collect();
        let groups = LinkGroups { nvlink: 2, switch: 4, peer_access: true };
        let paths: Vec<_> = groups.links_of(&gpus, 1).into_iter().map(|link| (link.gpu_id.to_string(), link.path, link.nvlinks)).collect();
        let expected = [
            ("sim-0", LinkPath::Nvlink, 1),
            ("sim-2", LinkPath::PcieSwitch, 0),
            ("sim-3", LinkPath::PcieSwitch, 0),
            ("sim-4", LinkPath::System, 0),
            ("sim-5", LinkPath::System, 0),
            ("sim-6", LinkPath::System, 0),
            ("sim-7", LinkPath::System, 0),
        ];
        assert_eq!(paths, expected.map(|(gpu_id, path, nvlinks)| (gpu_id.to_owned(), path, nvlinks)));
        assert!(LinkGroups::default().links_of(&gpus, 1).is_empty());
    }
}
