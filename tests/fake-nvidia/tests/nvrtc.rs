//! The real `cudarc` against the fake NVRTC.

use fake_nvidia::process as harness;

use std::ffi::{CStr, CString, c_char};

use cudarc::{
    driver::{CudaContext, LaunchConfig, PushKernelArg, sys::CUresult},
    nvrtc::{self, CompileError, CompileOptions, Ptx, result, sys},
};
use harness::{on_a_machine, without_a_driver};

const SOURCE: &str = r#"
// __global__ void not_this_one() {
extern "C" __global__ void fill_i32(int* out, int value, unsigned int n) {
    unsigned int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { out[i] = value; }
}
__global__ void mangled(float x) {}
template <typename T> __global__ void generic(T* data) {}
"#;

fn options(arch: &'static str) -> CompileOptions {
    CompileOptions { arch: Some(arch), name: Some("fill.cu".to_owned()), ..CompileOptions::default() }
}

/// The log of a source that does not compile.
fn log(source: &str, options: CompileOptions) -> (sys::nvrtcResult, String) {
    match nvrtc::compile_ptx_with_opts(source, options) {
        Err(CompileError::CompileError { nvrtc, log, .. }) => (nvrtc.0, log.into_string().expect("text")),
        other => panic!("{other:?}"),
    }
}

/// The cubin of the source for a GPU.
fn cubin(arch: &str) -> Vec<u8> {
    let source = CString::new(SOURCE).expect("no zeros");
    let program = result::create_program(&source, Some(c"fill.cu")).expect("a program");
    let mut size = 0;
    // SAFETY: a program that lives, and a buffer as large as the library asks for.
    unsafe {
        result::compile_program(program, &[format!("--gpu-architecture={arch}")]).expect("a compiled program");
        sys::nvrtcGetCUBINSize(program, &raw mut size).result().expect("a size");
        let mut cubin = vec![0_u8; size];
        if size > 0 {
            sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast::<c_char>()).result().expect("a cubin");
        }
        result::destroy_program(program).expect("the end of the program");
        cubin
    }
}

#[test]
fn a_source_becomes_a_module() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let images = [nvrtc::compile_ptx_with_opts(SOURCE, options("compute_80")).unwrap(), Ptx::from_binary(cubin("sm_90"))];
        for image in images {
            let module = context.load_module(image).unwrap();
            let fill = module.load_function("fill_i32").unwrap();
            let mut data = stream.alloc_zeros::<i32>(3).unwrap();
            // SAFETY: the arguments are those of the kernel.
            unsafe { stream.launch_builder(&fill).arg(&mut data).arg(&4_i32).arg(&3_u32).launch(LaunchConfig::for_num_elems(3)) }.unwrap();
            assert_eq!(stream.clone_dtoh(&data).unwrap(), [4; 3]);
            assert!(module.load_function("mangled").is_err(), "a C++ name is not the source's");
        }
        let other = context.load_module(Ptx::from_binary(cubin("sm_80"))).unwrap_err();
        assert_eq!(other.0, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    });
}

#[test]
fn it_compiles_without_a_driver() {
    without_a_driver(|| {
        let ptx = nvrtc::compile_ptx(SOURCE).unwrap().to_src();
        assert!(ptx.contains(".target sm_52") && ptx.contains(".entry fill_i32("), "{ptx}");
        assert!(cubin("compute_90").is_empty(), "a family of GPUs has no cubin");
        assert!(!cubin("sm_90").is_empty());
        let (mut major, mut minor) = (0, 0);
        // SAFETY: places for the numbers.
        unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) }.result().unwrap();
        assert_eq!((major, minor), (12, 4));
    });
}

#[test]
fn mistakes_are_in_the_log() {
    without_a_driver(|| {
        let (code, text) = log("int a;\n\n#error not for this GPU\n", options("sm_90"));
        assert_eq!(code, sys::nvrtcResult::NVRTC_ERROR_COMPILATION);
        assert!(text.starts_with("fill.cu(3): error: #error directive: not for this GPU\n"), "{text}");
        assert!(text.ends_with("1 error detected in the compilation of \"fill.cu\".\n"), "{text}");
        let (_, text) = log("extern \"C\" __global__ void a() {", CompileOptions::default());
        assert!(text.starts_with("default_program(1): error: expected a \"}\""), "{text}");
        let (code, text) = log(SOURCE, options("sm_999"));
        assert_eq!(code, sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION);
        assert_eq!(text, "nvrtc: error: invalid value for --gpu-architecture (-arch)\n");
    });
}

#[test]
fn a_name_has_a_symbol() {
    on_a_machine(1, |_| {
        let source = CString::new(SOURCE).unwrap();
        let program = result::create_program(&source, None).unwrap();
        let symbol = |name: &CStr| {
            let mut symbol = std::ptr::null();
            // SAFETY: a program that lives, and a place for the pointer.
            let code = unsafe { sys::nvrtcGetLoweredName(program, name.as_ptr(), &raw mut symbol) };
            // SAFETY: the library gave a text that stays until the program is destroyed.
            code.result().map(|()| unsafe { CStr::from_ptr(symbol) }.to_str().unwrap().to_owned())
        };
        for name in [c"mangled", c"generic<float>"] {
            // SAFETY: a program that lives.
            unsafe { sys::nvrtcAddNameExpression(program, name.as_ptr()) }.result().unwrap();
        }
        assert!(symbol(c"mangled").is_err(), "not before it is compiled");
        // SAFETY: a program that lives.
        let image = unsafe {
            result::compile_program::<&str>(program, &[]).unwrap();
            result::get_ptx(program).unwrap()
        };
        let text: String = image.iter().take_while(|letter| **letter != 0).map(|letter| char::from(letter.cast_unsigned())).collect();
        let module = CudaContext::new(0).unwrap().load_module(text.into()).unwrap();
        for name in [c"mangled", c"generic<float>"] {
            module.load_function(&symbol(name).unwrap()).unwrap();
        }
        assert!(symbol(c"absent").is_err());
        // SAFETY: a program that lives.
        unsafe { result::destroy_program(program) }.unwrap();
    });
}
